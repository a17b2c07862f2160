package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const statusDelay = 20 * time.Millisecond // joins changes that follow each other closely into one write

func (p *pod) touch() {
	select {
	case p.dirty <- struct{}{}:
	default:
	}
}

func (p *pod) writeStatuses() {
	for {
		select {
		case <-p.gone:
			return
		case <-p.node.ctx.Done():
			return
		case <-p.dirty:
		}
		time.Sleep(statusDelay)
		p.node.retry(p.writeStatus)
	}
}

// writeStatus patches the status if it changed. The uid guards a later pod of the same name.
func (p *pod) writeStatus() error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	status := p.statusLocked()
	p.mu.Unlock()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.uid}, "status": status})
	if err != nil || bytes.Equal(patch, p.written) {
		return err
	}
	pods := p.node.client.CoreV1().Pods(p.first.Namespace)
	_, err = pods.Patch(p.node.ctx, p.first.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if errors.IsNotFound(err) || (errors.IsConflict(err) && p.isGone()) {
		return nil // another pod may have its name
	}
	if err == nil {
		p.written = patch
	}
	return err
}

// statusLocked computes the status that the node owns; callers hold mu.
func (p *pod) statusLocked() v1.PodStatus {
	status := v1.PodStatus{
		ObservedGeneration: p.object.Generation,
		HostIP:             p.node.cfg.IP,
		HostIPs:            []v1.HostIP{{IP: p.node.cfg.IP}},
		PodIP:              p.ip,
		PodIPs:             []v1.PodIP{{IP: p.ip}},
		StartTime:          p.object.Status.StartTime,
		Reason:             p.reason,
		Message:            p.message,
	}
	if status.StartTime == nil {
		now := metav1.Now().Rfc3339Copy()
		p.object = p.object.DeepCopy()
		p.object.Status.StartTime, status.StartTime = &now, &now
	}
	for _, c := range p.inits {
		report := *c.status.DeepCopy()
		if !c.sidecar {
			report.Ready = report.State.Terminated != nil && report.State.Terminated.ExitCode == 0
		}
		status.InitContainerStatuses = append(status.InitContainerStatuses, report)
	}
	for _, c := range p.mains {
		status.ContainerStatuses = append(status.ContainerStatuses, *c.status.DeepCopy())
	}
	initialized := p.initialized()
	status.Phase = p.phase(initialized)
	status.Conditions = p.conditionList(status.Phase, initialized)
	return status
}

func (p *pod) initialized() bool {
	for _, c := range p.inits {
		ended := c.status.State.Terminated
		if c.sidecar {
			if ended == nil && !isTrue(c.status.Started) {
				return false
			}
		} else if ended == nil || ended.ExitCode != 0 {
			return false
		}
	}
	return true
}

func (p *pod) phase(initialized bool) v1.PodPhase {
	if p.finished {
		failed := p.reason != "" || !initialized
		for _, c := range p.mains {
			failed = failed || c.status.State.Terminated == nil || c.status.State.Terminated.ExitCode != 0
		}
		if failed {
			return v1.PodFailed
		}
		return v1.PodSucceeded
	}
	for _, c := range p.mains {
		if c.status.State.Waiting != nil && c.status.LastTerminationState.Terminated == nil {
			return v1.PodPending
		}
	}
	return v1.PodRunning
}

func (p *pod) conditionList(phase v1.PodPhase, initialized bool) []v1.PodCondition {
	ended := phase == v1.PodSucceeded || phase == v1.PodFailed
	unready := []string{}
	for _, c := range p.containers() {
		if (!c.init || c.sidecar) && !c.status.Ready {
			unready = append(unready, c.spec.Name)
		}
	}
	reason, message := "", ""
	switch {
	case phase == v1.PodSucceeded:
		reason = "PodCompleted"
	case phase == v1.PodFailed:
		reason = "PodFailed"
	case len(unready) > 0:
		reason, message = "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	}
	ready := !ended && len(unready) == 0
	result := []v1.PodCondition{p.condition(v1.ContainersReady, ready, reason, message)}
	if gate := p.closedGate(); ready && gate != "" {
		ready, reason, message = false, "ReadinessGatesNotReady", fmt.Sprintf("corresponding condition of pod readiness gate %q is not true", gate)
	}
	result = append(result, p.condition(v1.PodReady, ready, reason, message))
	reason = ""
	if !initialized {
		reason = "ContainersNotInitialized"
	} else if phase == v1.PodSucceeded {
		reason = "PodCompleted"
	}
	result = append(result, p.condition(v1.PodInitialized, initialized, reason, ""))
	if scheduled := p.conditions[v1.PodScheduled]; scheduled.Status != v1.ConditionTrue {
		result = append(result, p.condition(v1.PodScheduled, true, "", ""))
	}
	return result
}

func (p *pod) closedGate() v1.PodConditionType {
	for _, gate := range p.object.Spec.ReadinessGates {
		open := false
		for _, condition := range p.object.Status.Conditions {
			open = open || condition.Type == gate.ConditionType && condition.Status == v1.ConditionTrue
		}
		if !open {
			return gate.ConditionType
		}
	}
	return ""
}

func (p *pod) condition(kind v1.PodConditionType, value bool, reason, message string) v1.PodCondition {
	status := v1.ConditionFalse
	if value {
		status = v1.ConditionTrue
	}
	known := p.conditions[kind]
	since := known.LastTransitionTime
	if known.Status != status {
		since = metav1.Now().Rfc3339Copy()
	}
	condition := v1.PodCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: since, ObservedGeneration: p.object.Generation,
	}
	p.conditions[kind] = condition
	return condition
}
