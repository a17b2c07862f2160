// Package hosts stands in for the cluster's DNS: it writes the names of services and pods into a pod's /etc/hosts.
//
// The API server refuses loopback addresses in Endpoints, so the node chooses a service's pods itself. A name leads to a
// pod directly: nothing translates ports, so a service's port must equal its targetPort. A service without a ready pod
// has no name, as a headless one in DNS.
package hosts

import (
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const domain = "svc.cluster.local"

// Render writes the part of /etc/hosts that all pods of a namespace share.
func Render(namespace string, services []*v1.Service, pods []*v1.Pod) string {
	var text strings.Builder
	text.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
	services = slices.Clone(services)
	slices.SortFunc(services, func(a, b *v1.Service) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	for _, service := range services {
		if len(service.Spec.Selector) > 0 {
			renderService(&text, namespace, service, backends(service, pods))
		}
	}
	return text.String()
}

func renderService(text *strings.Builder, namespace string, service *v1.Service, pods []*v1.Pod) {
	headless := service.Spec.ClusterIP == v1.ClusterIPNone
	for i, pod := range pods {
		if i == 0 || headless {
			writeLine(text, pod.Status.PodIP, names(service.Name, service.Namespace, namespace))
		}
		if headless && pod.Spec.Subdomain == service.Name {
			writeLine(text, pod.Status.PodIP, names(Hostname(pod)+"."+service.Name, service.Namespace, namespace))
		}
	}
}

// backends are the service's pods that take traffic, oldest first so that a name does not move without need.
func backends(service *v1.Service, pods []*v1.Pod) []*v1.Pod {
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var chosen []*v1.Pod
	for _, pod := range pods {
		live := pod.Status.PodIP != "" && pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed
		serving := service.Spec.PublishNotReadyAddresses || (ready(pod) && pod.DeletionTimestamp == nil)
		if pod.Namespace == service.Namespace && live && serving && selector.Matches(labels.Set(pod.Labels)) {
			chosen = append(chosen, pod)
		}
	}
	slices.SortFunc(chosen, func(a, b *v1.Pod) int {
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return strings.Compare(a.Name, b.Name)
	})
	return chosen
}

func ready(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(condition v1.PodCondition) bool {
		return condition.Type == v1.PodReady && condition.Status == v1.ConditionTrue
	})
}

func names(name, own, from string) []string {
	result := []string{name + "." + own + "." + domain, name + "." + own + ".svc", name + "." + own}
	if own == from {
		result = append(result, name)
	}
	return result
}

func writeLine(text *strings.Builder, ip string, names []string) {
	fmt.Fprintf(text, "%s %s\n", ip, strings.Join(names, " "))
}

// Hostname is what a pod calls itself.
func Hostname(pod *v1.Pod) string {
	if pod.Spec.Hostname != "" {
		return pod.Spec.Hostname
	}
	return strings.TrimRight(pod.Name[:min(len(pod.Name), 63)], "-.")
}

// ForPod adds the pod's own lines to its namespace's.
func ForPod(shared string, pod *v1.Pod, ip string) string {
	var text strings.Builder
	text.WriteString(shared)
	own := []string{Hostname(pod)}
	if pod.Spec.Subdomain != "" {
		own = append(names(own[0]+"."+pod.Spec.Subdomain, pod.Namespace, pod.Namespace), own[0])
	}
	writeLine(&text, ip, own)
	for _, alias := range pod.Spec.HostAliases {
		writeLine(&text, alias.IP, alias.Hostnames)
	}
	return text.String()
}

// Write replaces a file's content in place: the pods' mounts hold on to the inode.
func Write(path, content string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte(content), 0); err != nil {
		return err
	}
	return file.Truncate(int64(len(content)))
}
