// Package node is the one node of the cluster: it runs the pods bound to it as processes on this machine.
//
// Each container is a process under bubblewrap with its own mounts, process tree and user; its root is this machine's
// /usr and what images.yaml adds, read-only. What a pod asks for and gets here: init containers and sidecars, env, volumes,
// probes, hooks, exit codes, termination messages, restarts with back-off, grace periods, deadlines, logs, exec,
// port-forward.
//
// What it does not do: no images (names only), no cgroups (requests and limits schedule but do not limit, nothing is
// OOM-killed), no network of its own (all pods share the host's; each has a loopback address and must bind to it), no
// kube-proxy, no NetworkPolicy, no seccomp, capabilities or supplementary groups, no devices (its GPUs are numbers), no
// attach, ephemeral containers, resize or image garbage collection. Stopping the cluster is a power cut to its pods.
package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/token"

	"finetune-operator.io/localcluster/hosts"
	"finetune-operator.io/localcluster/images"
	"finetune-operator.io/localcluster/volumes"
)

// Name is the node's name.
const Name = "local"

const (
	leaseNamespace = "kube-node-lease"
	leaseSeconds   = 40
	heartbeat      = 10 * time.Second
	hostsDelay     = 50 * time.Millisecond // gathers a burst of changes into one rewrite
)

// Config says where the node finds the cluster and keeps its files.
type Config struct {
	Dir     string // folders pods and volumes are made in it
	IP      string
	PodNet  string // the first two parts of the pods' addresses
	Port    int
	APIHost string
	APIPort int
	Client  *rest.Config
	TLS     *tls.Config
	Images  *images.Catalog
	Version string
}

// Node runs pods.
type Node struct {
	cfg      Config
	client   kubernetes.Interface
	events   record.EventRecorder
	mounter  *volumes.Mounter
	services corelisters.ServiceLister
	podCache corelisters.PodLister
	changed  chan struct{} // names may have to be rewritten

	mu     sync.Mutex
	ctx    context.Context
	pods   map[types.UID]*pod
	ips    map[string]types.UID
	nextIP int
}

func capacity() v1.ResourceList {
	return v1.ResourceList{
		v1.ResourceCPU:              resource.MustParse("64"),
		v1.ResourceMemory:           resource.MustParse("512Gi"),
		v1.ResourceEphemeralStorage: resource.MustParse("1Ti"),
		v1.ResourcePods:             resource.MustParse("250"),
		"nvidia.com/gpu":            resource.MustParse("8"),
		"amd.com/gpu":               resource.MustParse("8"),
	}
}

// Start registers the node and runs pods until the context ends.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	client, err := kubernetes.NewForConfig(cfg.Client)
	if err != nil {
		return nil, err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcore.EventSinkImpl{Interface: client.CoreV1().Events("")})
	n := &Node{
		cfg: cfg, client: client, ctx: ctx, changed: make(chan struct{}, 1),
		pods: map[types.UID]*pod{}, ips: map[string]types.UID{},
		events:  broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: Name}),
		mounter: &volumes.Mounter{Client: client, Tokens: token.NewManager(client), Allocatable: capacity()},
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	provisioner := volumes.NewProvisioner(client, factory, n.events, filepath.Join(cfg.Dir, "volumes"))
	if err := provisioner.EnsureClasses(ctx); err != nil {
		return nil, err
	}
	n.services = factory.Core().V1().Services().Lister()
	factory.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { n.touchNames() }, UpdateFunc: func(any, any) { n.touchNames() }, DeleteFunc: func(any) { n.touchNames() },
	})
	mine := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", Name).String()
	}))
	n.podCache = mine.Core().V1().Pods().Lister()
	podInformer := mine.Core().V1().Pods().Informer()
	for _, f := range []informers.SharedInformerFactory{factory, mine} {
		f.Start(ctx.Done())
		f.WaitForCacheSync(ctx.Done())
	}
	n.removeStrayDirs()
	if err := n.serve(); err != nil {
		return nil, err
	}
	if err := n.register(ctx); err != nil {
		return nil, err
	}
	// Services are known before the first pod starts.
	podInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.sync(object.(*v1.Pod)) },
		UpdateFunc: func(_, object any) { n.sync(object.(*v1.Pod)) },
		DeleteFunc: n.forget,
	})
	go provisioner.Run(ctx)
	go n.heartbeats()
	go n.writeNames()
	return n, nil
}

// removeStrayDirs removes what pods left that were deleted while the node was down.
func (n *Node) removeStrayDirs() {
	pods, err := n.podCache.List(labels.Everything())
	if err != nil {
		return
	}
	keep := map[string]bool{}
	for _, object := range pods {
		keep[dirName(object)] = true
	}
	root := filepath.Join(n.cfg.Dir, "pods")
	entries, _ := os.ReadDir(root)
	for _, entry := range entries {
		if !keep[entry.Name()] {
			os.RemoveAll(filepath.Join(root, entry.Name()))
		}
	}
}

func dirName(object *v1.Pod) string {
	return object.Namespace + "_" + object.Name + "_" + string(object.UID)
}

func (n *Node) status() v1.NodeStatus {
	now := metav1.Now()
	condition := func(kind v1.NodeConditionType, status v1.ConditionStatus, reason, message string) v1.NodeCondition {
		return v1.NodeCondition{
			Type: kind, Status: status, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
		}
	}
	return v1.NodeStatus{
		Capacity: capacity(), Allocatable: capacity(), Phase: v1.NodeRunning,
		Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: n.cfg.IP}, {Type: v1.NodeHostName, Address: Name}},
		Conditions: []v1.NodeCondition{
			condition(v1.NodeMemoryPressure, v1.ConditionFalse, "NotMeasured", "localcluster does not measure pressure"),
			condition(v1.NodeDiskPressure, v1.ConditionFalse, "NotMeasured", "localcluster does not measure pressure"),
			condition(v1.NodePIDPressure, v1.ConditionFalse, "NotMeasured", "localcluster does not measure pressure"),
			condition(v1.NodeReady, v1.ConditionTrue, "KubeletReady", "localcluster runs pods as processes"),
		},
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: int32(n.cfg.Port)}},
		NodeInfo: v1.NodeSystemInfo{
			KubeletVersion: n.cfg.Version, OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
			ContainerRuntimeVersion: "localcluster://bubblewrap", OSImage: "the host's",
		},
	}
}

func (n *Node) register(ctx context.Context) error {
	nodes := n.client.CoreV1().Nodes()
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: Name, Labels: map[string]string{
		v1.LabelHostname: Name, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
	}}}
	if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil && !errors.IsAlreadyExists(err) {
		return err
	}
	patch, err := json.Marshal(map[string]any{"status": n.status()})
	if err != nil {
		return err
	}
	_, err = nodes.Patch(ctx, Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func (n *Node) heartbeats() {
	for {
		if err := n.renewLease(); err != nil && n.ctx.Err() == nil {
			klog.ErrorS(err, "cannot renew the node's lease")
		}
		select {
		case <-n.ctx.Done():
			return
		case <-time.After(heartbeat):
		}
	}
}

func (n *Node) renewLease() error {
	leases := n.client.CoordinationV1().Leases(leaseNamespace)
	now, holder, seconds := metav1.NowMicro(), Name, int32(leaseSeconds)
	spec := coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &now}
	patch, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		return err
	}
	_, err = leases.Patch(n.ctx, Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if errors.IsNotFound(err) {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: Name}, Spec: spec}
		_, err = leases.Create(n.ctx, lease, metav1.CreateOptions{})
	}
	return err
}

// sync takes up a pod bound to this node, or tells its runner what changed.
func (n *Node) sync(object *v1.Pod) {
	n.mu.Lock()
	p, known := n.pods[object.UID]
	if !known {
		p = newPod(n, object, n.assignIP(object))
		n.pods[object.UID] = p
	}
	n.mu.Unlock()
	p.update(object)
	if !known {
		go p.run()
	}
	n.touchNames()
}

func (n *Node) forget(object any) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	deleted, ok := object.(*v1.Pod)
	if !ok {
		return
	}
	n.mu.Lock()
	p := n.pods[deleted.UID]
	n.mu.Unlock()
	if p != nil {
		p.forget()
	}
	n.touchNames()
}

// assignIP gives a pod an address for its life; one that it had before a restart of the cluster stays. Callers hold mu.
func (n *Node) assignIP(object *v1.Pod) string {
	if object.Spec.HostNetwork {
		return n.cfg.IP
	}
	ip := object.Status.PodIP
	for ; !strings.HasPrefix(ip, n.cfg.PodNet+".") || n.ips[ip] != ""; n.nextIP++ {
		ip = fmt.Sprintf("%s.%d.%d", n.cfg.PodNet, 1+n.nextIP/254%254, 1+n.nextIP%254)
	}
	n.ips[ip] = object.UID
	return ip
}

func (n *Node) release(p *pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, p.uid)
	if n.ips[p.ip] == p.uid {
		delete(n.ips, p.ip)
	}
}

func (n *Node) running() []*pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	result := make([]*pod, 0, len(n.pods))
	for _, p := range n.pods {
		result = append(result, p)
	}
	return result
}

// Kill ends every process of every pod and waits for that. The context must have ended, so that nothing is reported.
func (n *Node) Kill() {
	for _, p := range n.running() {
		p.kill()
	}
}

func (n *Node) touchNames() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// writeNames keeps the pods' /etc/hosts up to date.
func (n *Node) writeNames() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.changed:
		}
		time.Sleep(hostsDelay)
		shared := map[string]string{}
		for _, p := range n.running() {
			object := p.current()
			if _, done := shared[object.Namespace]; !done {
				shared[object.Namespace] = n.names(object.Namespace)
			}
			if err := p.writeHosts(shared[object.Namespace]); err != nil {
				klog.ErrorS(err, "cannot write a pod's hosts file", "pod", klog.KObj(object))
			}
		}
	}
}

func (n *Node) names(namespace string) string {
	services, err := n.services.List(labels.Everything())
	if err != nil {
		return ""
	}
	pods, err := n.podCache.List(labels.Everything())
	if err != nil {
		return ""
	}
	return hosts.Render(namespace, services, pods)
}
