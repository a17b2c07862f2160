package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

const (
	provisionerName      = "finetune-operator.io/localcluster"
	provisionedBy        = "pv.kubernetes.io/provisioned-by"
	selectedNode         = "volume.kubernetes.io/selected-node"
	defaultClass         = "storageclass.kubernetes.io/is-default-class"
	failedReason         = "ProvisioningFailed"
	claimKind, volumeKey = "claim", "volume"
)

// Provisioner gives each claim of the storage classes local and local-wait a folder, and removes the folder of a
// released volume. Quotas are not enforced: a claim may fill the disk.
type Provisioner struct {
	client  kubernetes.Interface
	dir     string
	events  record.EventRecorder
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	queue   workqueue.TypedRateLimitingInterface[item]
}

type item struct{ kind, namespace, name string }

// NewProvisioner registers its interest with the informers before they start.
func NewProvisioner(
	client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, dir string,
) *Provisioner {
	core, storage := factory.Core().V1(), factory.Storage().V1()
	p := &Provisioner{
		client: client, dir: dir, events: events,
		claims:  core.PersistentVolumeClaims().Lister(),
		volumes: core.PersistentVolumes().Lister(),
		classes: storage.StorageClasses().Lister(),
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[item]()),
	}
	add := func(kind string) cache.ResourceEventHandlerFuncs {
		enqueue := func(object any) {
			meta := object.(metav1.Object)
			p.queue.Add(item{kind, meta.GetNamespace(), meta.GetName()})
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: enqueue, UpdateFunc: func(_, object any) { enqueue(object) }}
	}
	core.PersistentVolumeClaims().Informer().AddEventHandler(add(claimKind))
	core.PersistentVolumes().Informer().AddEventHandler(add(volumeKey))
	storage.StorageClasses().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { p.addAllClaims() }})
	return p
}

// addAllClaims looks again at claims that were made before their class.
func (p *Provisioner) addAllClaims() {
	for _, object := range p.claimsOrNone() {
		p.queue.Add(item{claimKind, object.Namespace, object.Name})
	}
}

func (p *Provisioner) claimsOrNone() []*v1.PersistentVolumeClaim {
	claims, err := p.claims.List(labels.Everything())
	if err != nil {
		return nil
	}
	return claims
}

// EnsureClasses makes the two storage classes.
func (p *Provisioner) EnsureClasses(ctx context.Context) error {
	reclaim := v1.PersistentVolumeReclaimDelete
	for name, mode := range map[string]storagev1.VolumeBindingMode{
		"local": storagev1.VolumeBindingImmediate, "local-wait": storagev1.VolumeBindingWaitForFirstConsumer,
	} {
		class := &storagev1.StorageClass{
			ObjectMeta:  metav1.ObjectMeta{Name: name},
			Provisioner: provisionerName, ReclaimPolicy: &reclaim, VolumeBindingMode: &mode,
		}
		if name == "local" {
			class.Annotations = map[string]string{defaultClass: "true"}
		}
		_, err := p.client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
		if err != nil && !errors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// Run works until the context ends.
func (p *Provisioner) Run(ctx context.Context) {
	go func() { <-ctx.Done(); p.queue.ShutDown() }()
	for {
		next, quit := p.queue.Get()
		if quit {
			return
		}
		if err := p.sync(ctx, next); err != nil && ctx.Err() == nil {
			p.queue.AddRateLimited(next)
		} else {
			p.queue.Forget(next)
		}
		p.queue.Done(next)
	}
}

func (p *Provisioner) sync(ctx context.Context, next item) error {
	if next.kind == volumeKey {
		volume, err := p.volumes.Get(next.name)
		if err != nil {
			return nil // gone
		}
		return p.reclaim(ctx, volume)
	}
	claim, err := p.claims.PersistentVolumeClaims(next.namespace).Get(next.name)
	if err != nil {
		return nil // gone
	}
	return p.provision(ctx, claim)
}

func (p *Provisioner) provision(ctx context.Context, claim *v1.PersistentVolumeClaim) error {
	if claim.Status.Phase != v1.ClaimPending || claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil ||
		claim.DeletionTimestamp != nil {
		return nil
	}
	class, err := p.classes.Get(*claim.Spec.StorageClassName)
	if err != nil || class.Provisioner != provisionerName {
		return nil
	}
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if waits && claim.Annotations[selectedNode] == "" {
		return nil
	}
	if claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == v1.PersistentVolumeBlock {
		p.events.Event(claim, v1.EventTypeWarning, failedReason, "localcluster has no block volumes: use volumeMode Filesystem")
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.dir, fmt.Sprintf("%s_%s_%s", claim.Namespace, claim.Name, claim.UID))
	if err := makeDir(path); err != nil {
		p.events.Event(claim, v1.EventTypeWarning, failedReason, err.Error())
		return err
	}
	_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, newVolume(name, path, claim, class), metav1.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	if err == nil {
		p.events.Eventf(claim, v1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s at %s", name, path)
	}
	return err
}

func newVolume(name, path string, claim *v1.PersistentVolumeClaim, class *storagev1.StorageClass) *v1.PersistentVolume {
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisionerName}},
		Spec: v1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes,
			Capacity:    v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			ClaimRef: &v1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeReclaimPolicy: *class.ReclaimPolicy,
			PersistentVolumeSource:        v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path}},
			StorageClassName:              class.Name,
		},
	}
}

func (p *Provisioner) reclaim(ctx context.Context, volume *v1.PersistentVolume) error {
	if volume.Status.Phase != v1.VolumeReleased || volume.Annotations[provisionedBy] != provisionerName ||
		volume.Spec.PersistentVolumeReclaimPolicy != v1.PersistentVolumeReclaimDelete || volume.DeletionTimestamp != nil {
		return nil
	}
	// Only what this provisioner made is removed, even if somebody edited the path.
	if path := volume.Spec.HostPath.Path; filepath.Dir(path) == p.dir {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{})
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}
