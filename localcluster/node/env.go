package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resources "k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"finetune-operator.io/localcluster/hosts"
	"finetune-operator.io/localcluster/images"
)

const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment resolves a container's variables in the kubelet's order: the image's, the cluster's, envFrom, env.
// Of the services, only the API server's variables are set.
func (n *Node) environment(ctx context.Context, pod *v1.Pod, c *v1.Container, image *images.Image) (map[string]string, error) {
	env := map[string]string{
		"PATH":                          strings.Join(append(slices.Clone(image.Path), systemPath), ":"),
		"HOME":                          "/root",
		"HOSTNAME":                      hosts.Hostname(pod),
		"KUBERNETES_SERVICE_HOST":       n.cfg.APIHost,
		"KUBERNETES_SERVICE_PORT":       strconv.Itoa(n.cfg.APIPort),
		"KUBERNETES_SERVICE_PORT_HTTPS": strconv.Itoa(n.cfg.APIPort),
	}
	maps.Copy(env, image.Env)
	for i := range c.EnvFrom {
		if err := n.envFrom(ctx, pod.Namespace, &c.EnvFrom[i], env); err != nil {
			return nil, err
		}
	}
	expand := expansion.MappingFuncFor(env)
	for i := range c.Env {
		variable := &c.Env[i]
		if variable.ValueFrom == nil {
			env[variable.Name] = expansion.Expand(variable.Value, expand)
			continue
		}
		value, found, err := n.valueFrom(ctx, pod, c, variable.ValueFrom)
		if err != nil {
			return nil, err
		}
		if found {
			env[variable.Name] = value
		}
	}
	return env, nil
}

func (n *Node) envFrom(ctx context.Context, namespace string, source *v1.EnvFromSource, env map[string]string) error {
	switch {
	case source.ConfigMapRef != nil:
		data, err := n.configMapData(ctx, namespace, source.ConfigMapRef.Name, source.ConfigMapRef.Optional)
		for key, value := range data {
			env[source.Prefix+key] = value
		}
		return err
	case source.SecretRef != nil:
		data, err := n.secretData(ctx, namespace, source.SecretRef.Name, source.SecretRef.Optional)
		for key, value := range data {
			env[source.Prefix+key] = string(value)
		}
		return err
	}
	return nil
}

func (n *Node) valueFrom(ctx context.Context, pod *v1.Pod, c *v1.Container, source *v1.EnvVarSource) (string, bool, error) {
	switch {
	case source.FieldRef != nil:
		value, err := fieldValue(pod, source.FieldRef.FieldPath)
		return value, true, err
	case source.ResourceFieldRef != nil:
		name := source.ResourceFieldRef.ContainerName
		if name == "" {
			name = c.Name
		}
		value, err := resources.ExtractResourceValueByContainerNameAndNodeAllocatable(source.ResourceFieldRef, pod, name, capacity())
		return value, true, err
	case source.ConfigMapKeyRef != nil:
		ref := source.ConfigMapKeyRef
		data, err := n.configMapData(ctx, pod.Namespace, ref.Name, ref.Optional)
		value, found := data[ref.Key]
		if err == nil && !found && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %s in ConfigMap %s/%s", ref.Key, pod.Namespace, ref.Name)
		}
		return value, found, err
	case source.SecretKeyRef != nil:
		ref := source.SecretKeyRef
		data, err := n.secretData(ctx, pod.Namespace, ref.Name, ref.Optional)
		value, found := data[ref.Key]
		if err == nil && !found && !isTrue(ref.Optional) {
			err = fmt.Errorf("couldn't find key %s in Secret %s/%s", ref.Key, pod.Namespace, ref.Name)
		}
		return string(value), found, err
	}
	return "", false, fmt.Errorf("localcluster sets variables from fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef only")
}

func fieldValue(pod *v1.Pod, path string) (string, error) {
	switch path {
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return pod.Status.PodIP, nil
	case "status.hostIP", "status.hostIPs":
		return pod.Status.HostIP, nil
	}
	return fieldpath.ExtractFieldPathAsString(pod, path)
}

func (n *Node) configMapData(ctx context.Context, namespace, name string, optional *bool) (map[string]string, error) {
	object, err := n.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) {
		if isTrue(optional) {
			return nil, nil
		}
		return nil, fmt.Errorf("configmap %q not found", name)
	}
	if err != nil {
		return nil, err
	}
	return object.Data, nil
}

func (n *Node) secretData(ctx context.Context, namespace, name string, optional *bool) (map[string][]byte, error) {
	object, err := n.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if errors.IsNotFound(err) {
		if isTrue(optional) {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %q not found", name)
	}
	if err != nil {
		return nil, err
	}
	return object.Data, nil
}

func isTrue(value *bool) bool { return value != nil && *value }

func environ(env map[string]string) []string {
	result := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		result = append(result, name+"="+env[name])
	}
	return result
}
