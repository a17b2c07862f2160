// Package volumes turns a pod's volumes into folders on this machine, and claims into volumes.
package volumes

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	resources "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/kubelet/token"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/secret"
	volumeutil "k8s.io/kubernetes/pkg/volume/util"
)

// Volume is where a pod's volume lies on this machine.
type Volume struct {
	Path     string
	ReadOnly bool
}

// Mounter sets up volumes.
type Mounter struct {
	Client      kubernetes.Interface
	Tokens      *token.Manager
	Allocatable v1.ResourceList
}

type payload = map[string]volumeutil.FileProjection

// SetUp makes every volume of a pod under dir, and brings the content of those that follow API objects up to date.
func (m *Mounter) SetUp(ctx context.Context, pod *v1.Pod, dir string) (map[string]Volume, error) {
	result := map[string]Volume{}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		mounted, err := m.setUp(ctx, pod, volume, filepath.Join(dir, volume.Name))
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", volume.Name, err)
		}
		result[volume.Name] = mounted
	}
	return result, nil
}

func (m *Mounter) setUp(ctx context.Context, pod *v1.Pod, volume *v1.Volume, dir string) (Volume, error) {
	switch {
	case volume.EmptyDir != nil:
		return Volume{Path: dir}, makeDir(dir)
	case volume.HostPath != nil:
		return Volume{Path: volume.HostPath.Path}, checkHostPath(volume.HostPath)
	case volume.PersistentVolumeClaim != nil:
		path, err := m.claimPath(ctx, pod.Namespace, volume.PersistentVolumeClaim.ClaimName)
		return Volume{Path: path, ReadOnly: volume.PersistentVolumeClaim.ReadOnly}, err
	}
	files, err := m.files(ctx, pod, volume)
	if err != nil {
		return Volume{}, err
	}
	return Volume{Path: dir, ReadOnly: true}, writeFiles(dir, files)
}

// makeDir makes a folder that any user of the pod may write to, whatever the umask.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777)
}

func writeFiles(dir string, files payload) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	writer, err := volumeutil.NewAtomicWriter(dir, dir)
	if err != nil {
		return err
	}
	return writer.Write(files, nil)
}

func checkHostPath(source *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	switch kind {
	case v1.HostPathDirectoryOrCreate:
		return os.MkdirAll(source.Path, 0o755)
	case v1.HostPathFileOrCreate:
		file, err := os.OpenFile(source.Path, os.O_CREATE, 0o644)
		if err == nil {
			file.Close()
		}
		return err
	}
	info, err := os.Stat(source.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %s: %w", source.Path, err)
	}
	if (kind == v1.HostPathDirectory && !info.IsDir()) || (kind == v1.HostPathFile && !info.Mode().IsRegular()) {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, kind)
	}
	return nil
}

func (m *Mounter) claimPath(ctx context.Context, namespace, name string) (string, error) {
	claim, err := m.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if claim.Status.Phase != v1.ClaimBound {
		return "", fmt.Errorf("persistentvolumeclaim %q is not bound", name)
	}
	volume, err := m.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	switch {
	case volume.Spec.HostPath != nil:
		return volume.Spec.HostPath.Path, checkHostPath(volume.Spec.HostPath)
	case volume.Spec.Local != nil:
		return volume.Spec.Local.Path, checkHostPath(&v1.HostPathVolumeSource{Path: volume.Spec.Local.Path})
	}
	return "", fmt.Errorf("persistentvolume %q is neither hostPath nor local: localcluster mounts no other kind", volume.Name)
}

// files is the content of a volume that is made from API objects.
func (m *Mounter) files(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (payload, error) {
	switch {
	case volume.ConfigMap != nil:
		source := volume.ConfigMap
		return m.configMap(ctx, pod.Namespace, source.Name, source.Items, source.DefaultMode, isTrue(source.Optional))
	case volume.Secret != nil:
		source := volume.Secret
		return m.secret(ctx, pod.Namespace, source.SecretName, source.Items, source.DefaultMode, isTrue(source.Optional))
	case volume.DownwardAPI != nil:
		return m.downward(pod, volume.DownwardAPI.Items, *volume.DownwardAPI.DefaultMode)
	case volume.Projected != nil:
		files := payload{}
		for i := range volume.Projected.Sources {
			part, err := m.projection(ctx, pod, &volume.Projected.Sources[i], volume.Projected.DefaultMode)
			if err != nil {
				return nil, err
			}
			maps.Copy(files, part)
		}
		return files, nil
	}
	return nil, fmt.Errorf("localcluster has no volumes of this kind: use emptyDir, hostPath, persistentVolumeClaim, " +
		"configMap, secret, downwardAPI or projected")
}

func (m *Mounter) projection(ctx context.Context, pod *v1.Pod, source *v1.VolumeProjection, mode *int32) (payload, error) {
	switch {
	case source.ConfigMap != nil:
		return m.configMap(ctx, pod.Namespace, source.ConfigMap.Name, source.ConfigMap.Items, mode, isTrue(source.ConfigMap.Optional))
	case source.Secret != nil:
		return m.secret(ctx, pod.Namespace, source.Secret.Name, source.Secret.Items, mode, isTrue(source.Secret.Optional))
	case source.DownwardAPI != nil:
		return m.downward(pod, source.DownwardAPI.Items, *mode)
	case source.ServiceAccountToken != nil:
		return m.token(pod, source.ServiceAccountToken)
	}
	return nil, fmt.Errorf("localcluster projects only configMap, secret, downwardAPI and serviceAccountToken")
}

func (m *Mounter) configMap(
	ctx context.Context, namespace, name string, items []v1.KeyToPath, mode *int32, optional bool,
) (payload, error) {
	object, err := m.Client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) {
		if !optional {
			return nil, fmt.Errorf("configmap %q not found", name)
		}
		object = &v1.ConfigMap{}
	} else if err != nil {
		return nil, err
	}
	return configmap.MakePayload(items, object, mode, optional)
}

func (m *Mounter) secret(
	ctx context.Context, namespace, name string, items []v1.KeyToPath, mode *int32, optional bool,
) (payload, error) {
	object, err := m.Client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) {
		if !optional {
			return nil, fmt.Errorf("secret %q not found", name)
		}
		object = &v1.Secret{}
	} else if err != nil {
		return nil, err
	}
	return secret.MakePayload(items, object, mode, optional)
}

func (m *Mounter) token(pod *v1.Pod, source *v1.ServiceAccountTokenProjection) (payload, error) {
	request := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: source.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	answer, err := m.Tokens.GetServiceAccountToken(pod.Namespace, pod.Spec.ServiceAccountName, request)
	if err != nil {
		return nil, err
	}
	return payload{source.Path: {Data: []byte(answer.Status.Token), Mode: 0o600}}, nil
}

func (m *Mounter) downward(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, defaultMode int32) (payload, error) {
	files := payload{}
	for _, item := range items {
		var value string
		var err error
		if item.FieldRef != nil {
			value, err = fieldpath.ExtractFieldPathAsString(pod, item.FieldRef.FieldPath)
		} else {
			value, err = resources.ExtractResourceValueByContainerNameAndNodeAllocatable(
				item.ResourceFieldRef, pod, item.ResourceFieldRef.ContainerName, m.Allocatable)
		}
		if err != nil {
			return nil, err
		}
		mode := defaultMode
		if item.Mode != nil {
			mode = *item.Mode
		}
		files[filepath.Clean(item.Path)] = volumeutil.FileProjection{Data: []byte(value), Mode: mode}
	}
	return files, nil
}

func isTrue(value *bool) bool { return value != nil && *value }
