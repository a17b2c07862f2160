package node

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	probegrpc "k8s.io/kubernetes/pkg/probe/grpc"
	probehttp "k8s.io/kubernetes/pkg/probe/http"
	probetcp "k8s.io/kubernetes/pkg/probe/tcp"

	"finetune-operator.io/localcluster/process"
)

// probeAll runs the startup probe to its first success, then liveness and readiness until the process ends.
func (c *container) probeAll(ctx context.Context, r *running, unhealthy chan<- *v1.Probe) {
	if c.spec.StartupProbe != nil && !c.probeUntil(ctx, r, "Startup", c.spec.StartupProbe, func(healthy bool) bool {
		if !healthy {
			unhealthy <- c.spec.StartupProbe
		}
		return true
	}) {
		return
	}
	started := true
	c.set(func(status *v1.ContainerStatus) {
		if c.run == r {
			status.Started, status.Ready = &started, c.spec.ReadinessProbe == nil
		}
	})
	select {
	case <-c.up:
	default:
		close(c.up)
	}
	if c.spec.LivenessProbe != nil {
		go c.probeUntil(ctx, r, "Liveness", c.spec.LivenessProbe, func(healthy bool) bool {
			if !healthy {
				unhealthy <- c.spec.LivenessProbe
			}
			return !healthy
		})
	}
	if c.spec.ReadinessProbe != nil {
		c.probeUntil(ctx, r, "Readiness", c.spec.ReadinessProbe, func(healthy bool) bool {
			c.set(func(status *v1.ContainerStatus) { status.Ready = healthy && c.run == r })
			return false
		})
	}
}

// probeUntil probes each period and calls decide when a threshold is reached, until decide says to stop. It returns the
// last verdict; quiet probes are judged by failures first.
func (c *container) probeUntil(
	ctx context.Context, r *running, kind string, p *v1.Probe, decide func(healthy bool) bool,
) bool {
	ticker := time.NewTicker(time.Duration(max(p.PeriodSeconds, 1)) * time.Second)
	defer ticker.Stop()
	if !sleep(ctx, time.Duration(p.InitialDelaySeconds)*time.Second) {
		return false
	}
	for successes, failures := int32(0), int32(0); ; {
		err := c.probeOnce(ctx, r, p)
		if ctx.Err() != nil {
			return false
		}
		if err == nil {
			successes, failures = successes+1, 0
		} else {
			successes, failures = 0, failures+1
			c.event(v1.EventTypeWarning, "Unhealthy", "%s probe failed: %v", kind, err)
		}
		if successes >= max(p.SuccessThreshold, 1) && decide(true) {
			return true
		}
		if failures >= max(p.FailureThreshold, 1) && decide(false) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-r.done:
			return false
		case <-ticker.C:
		}
	}
}

func (c *container) probeOnce(ctx context.Context, r *running, p *v1.Probe) error {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	switch {
	case p.Exec != nil:
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return execInside(ctx, r, p.Exec.Command)
	case p.HTTPGet != nil:
		return c.httpGet(p.HTTPGet, timeout)
	case p.TCPSocket != nil:
		port, err := probe.ResolveContainerPort(p.TCPSocket.Port, c.spec)
		if err != nil {
			return err
		}
		return verdict(probetcp.New().Probe(c.host(p.TCPSocket.Host), port, timeout))
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return verdict(probegrpc.New().Probe(c.pod.ip, service, int(p.GRPC.Port), timeout))
	}
	return nil
}

func (c *container) host(host string) string {
	if host == "" {
		return c.pod.ip
	}
	return host
}

func (c *container) httpGet(action *v1.HTTPGetAction, timeout time.Duration) error {
	request, err := probehttp.NewRequestForHTTPGetAction(action, c.spec, c.pod.ip, "probe")
	if err != nil {
		return err
	}
	return verdict(probehttp.New(false).Probe(request, timeout))
}

func verdict(result probe.Result, output string, err error) error {
	if err != nil {
		return err
	}
	if result != probe.Success && result != probe.Warning {
		return fmt.Errorf("%s", output)
	}
	return nil
}

// execInside runs a command in the container and fails with its output.
func execInside(ctx context.Context, r *running, command []string) error {
	var output bytes.Buffer
	cmd := r.enter(command)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := process.Start(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("command timed out: %q", strings.Join(command, " "))
	}
	if err != nil && output.Len() > 0 {
		return fmt.Errorf("%s", strings.TrimSpace(output.String()))
	}
	return err
}

// hook runs a postStart or preStop handler.
func (c *container) hook(ctx context.Context, r *running, handler *v1.LifecycleHandler) error {
	switch {
	case handler.Exec != nil:
		return execInside(ctx, r, handler.Exec.Command)
	case handler.Sleep != nil:
		select {
		case <-r.done:
		case <-ctx.Done():
		case <-time.After(time.Duration(handler.Sleep.Seconds) * time.Second):
		}
		return nil
	case handler.HTTPGet != nil:
		port, err := probe.ResolveContainerPort(handler.HTTPGet.Port, c.spec)
		if err != nil {
			return err
		}
		address := net.JoinHostPort(c.host(handler.HTTPGet.Host), strconv.Itoa(port))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+handler.HTTPGet.Path, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		return err
	}
	return nil
}
