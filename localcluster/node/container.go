package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	securejoin "github.com/cyphar/filepath-securejoin"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"

	"finetune-operator.io/localcluster/hosts"
	"finetune-operator.io/localcluster/images"
)

const (
	firstBackOff     = 10 * time.Second
	maxBackOff       = 5 * time.Minute
	forgivenAfter    = 10 * time.Minute // a container that ran this long starts afresh
	configRetry      = 3 * time.Second
	minGrace         = 2 * time.Second // of a liveness restart whose pre-stop hook used up the grace period
	terminationLimit = 4096
)

// container runs one container of a pod again and again as its restart policy says.
type container struct {
	pod     *pod
	spec    *v1.Container
	init    bool
	sidecar bool
	up      chan struct{} // closed when a sidecar has started up for the first time

	// Guarded by the pod's lock.
	status v1.ContainerStatus
	run    *running

	// Of the loop alone.
	backOff      time.Duration
	imageBackOff time.Duration
	runs         int32 // restarts that the next run will have
	lastStart    time.Time
}

func newContainer(p *pod, spec *v1.Container, init bool, known []v1.ContainerStatus) *container {
	c := &container{pod: p, spec: spec, init: init, up: make(chan struct{})}
	c.sidecar = init && spec.RestartPolicy != nil && *spec.RestartPolicy == v1.ContainerRestartPolicyAlways
	reason := "ContainerCreating"
	if !init && len(p.first.Spec.InitContainers) > 0 || init && len(p.inits) > 0 {
		reason = "PodInitializing"
	}
	c.status = v1.ContainerStatus{Name: spec.Name, Image: spec.Image, Started: new(bool), State: waiting(reason, "")}
	for _, status := range known {
		if status.Name == spec.Name {
			c.status = *status.DeepCopy()
			c.runs = status.RestartCount
			if status.State.Waiting != nil && status.LastTerminationState.Terminated != nil {
				c.runs++ // it was waiting to be restarted
			}
		}
	}
	return c
}

func waiting(reason, message string) v1.ContainerState {
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func (c *container) set(change func(status *v1.ContainerStatus)) {
	c.pod.mu.Lock()
	change(&c.status)
	c.pod.mu.Unlock()
	c.pod.touch()
}

func (c *container) wait(reason, message string) {
	c.set(func(status *v1.ContainerStatus) { status.State = waiting(reason, message) })
}

func (c *container) running() *running {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.run
}

func (c *container) restarts() int32 {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.status.RestartCount
}

// settle ends the state of a container whose process is lost.
func (c *container) settle(message string) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	state := c.status.State
	begun := state.Running != nil || (c.pod.ctx.Err() != nil && state.Terminated == nil)
	if !begun {
		return
	}
	lost := &v1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", Message: message, FinishedAt: metav1.Now(), ContainerID: c.status.ContainerID,
	}
	if state.Running != nil {
		lost.StartedAt = state.Running.StartedAt
	}
	c.status.State, c.status.Ready, c.status.Started = v1.ContainerState{Terminated: lost}, false, new(bool)
}

// isDone says whether the container ended for good before the node went down.
func (c *container) isDone() bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	ended := c.status.State.Terminated
	return ended != nil && !c.mayRestart(ended.ExitCode)
}

func (c *container) mayRestart(exitCode int32) bool {
	if c.sidecar {
		return true
	}
	switch c.pod.first.Spec.RestartPolicy {
	case v1.RestartPolicyAlways:
		return !c.init || exitCode != 0
	case v1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return false
}

// loop runs the container until it is done or ctx ends, and says whether it succeeded.
func (c *container) loop(ctx context.Context) bool {
	c.pod.mu.Lock()
	again := c.status.State.Terminated != nil
	c.pod.mu.Unlock()
	for {
		if again && !c.delayRestart(ctx) {
			return false
		}
		r := c.launch(ctx)
		if r == nil {
			return false
		}
		c.watch(ctx, r)
		exitCode := c.recordExit(r)
		if ctx.Err() != nil || !c.mayRestart(exitCode) {
			return exitCode == 0
		}
		again = true
	}
}

// delayRestart moves the last end aside and waits: not at first, then 10 s, doubled each time up to 5 minutes.
func (c *container) delayRestart(ctx context.Context) bool {
	delay := c.backOff
	if !c.lastStart.IsZero() && time.Since(c.lastStart) > forgivenAfter {
		delay = 0
	}
	c.backOff = min(max(2*delay, firstBackOff), maxBackOff)
	state := waiting("ContainerCreating", "")
	if delay > 0 {
		message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, c.spec.Name, c.podName())
		state = waiting("CrashLoopBackOff", message)
		c.event(v1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.spec.Name, c.podName())
	}
	c.set(func(status *v1.ContainerStatus) { status.LastTerminationState, status.State = status.State, state })
	c.runs = c.restarts() + 1
	return sleep(ctx, delay)
}

func sleep(ctx context.Context, delay time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(delay):
		return ctx.Err() == nil
	}
}

func (c *container) podName() string {
	object := c.pod.first
	return fmt.Sprintf("%s_%s(%s)", object.Name, object.Namespace, object.UID)
}

func (c *container) event(kind, reason, format string, args ...any) {
	c.pod.event(kind, reason, format, args...)
}

// launch starts the process, trying until the image and everything that the container refers to is there.
func (c *container) launch(ctx context.Context) *running {
	for {
		image, ok := c.pull(ctx)
		if !ok {
			return nil
		}
		s, err := c.prepare(ctx, image)
		if err == nil {
			var r *running
			if r, err = c.start(s); err == nil {
				return r
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		c.wait("CreateContainerConfigError", err.Error())
		c.event(v1.EventTypeWarning, "Failed", "Error: %v", err)
		if !sleep(ctx, configRetry) {
			return nil
		}
	}
}

func (c *container) pull(ctx context.Context) (*images.Image, bool) {
	for ctx.Err() == nil {
		image, err := c.pod.node.cfg.Images.Lookup(c.spec.Image)
		if err == nil {
			c.imageBackOff = 0
			c.event(v1.EventTypeNormal, "Pulled", "Container image %q already present on machine", c.spec.Image)
			return image, true
		}
		if c.spec.ImagePullPolicy == v1.PullNever {
			c.imageFailure("ErrImageNeverPull", fmt.Sprintf("Container image %q is not present with pull policy of Never", c.spec.Image))
			sleep(ctx, configRetry)
			continue
		}
		c.event(v1.EventTypeNormal, "Pulling", "Pulling image %q", c.spec.Image)
		c.event(v1.EventTypeWarning, "Failed", "%v", err)
		c.imageFailure("ErrImagePull", err.Error())
		c.imageBackOff = min(max(2*c.imageBackOff, firstBackOff), maxBackOff)
		if !sleep(ctx, 2*time.Second) { // long enough to be seen
			return nil, false
		}
		message := fmt.Sprintf("Back-off pulling image %q", c.spec.Image)
		c.event(v1.EventTypeNormal, "BackOff", "%s", message)
		c.imageFailure("ImagePullBackOff", message+": ErrImagePull: "+err.Error())
		sleep(ctx, c.imageBackOff)
	}
	return nil, false
}

func (c *container) imageFailure(reason, message string) {
	c.wait(reason, message)
	c.event(v1.EventTypeWarning, "Failed", "Error: %s", reason)
}

// prepare resolves everything that the container refers to.
func (c *container) prepare(ctx context.Context, image *images.Image) (*sandbox, error) {
	object := c.pod.current()
	uid, gid, err := c.user(object, image)
	if err != nil {
		return nil, err
	}
	env, err := c.pod.node.environment(ctx, object, c.spec, image)
	if err != nil {
		return nil, err
	}
	command := expandAll(c.spec.Command, env)
	args := expandAll(c.spec.Args, env)
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	command = append(append([]string{}, command...), args...)
	if len(command) == 0 {
		return nil, fmt.Errorf("no command specified: neither the container nor image %q in images.yaml has one", c.spec.Image)
	}
	dir := c.dir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := writeAccounts(dir, uid, gid); err != nil {
		return nil, err
	}
	binds, err := c.binds(env)
	if err != nil {
		return nil, err
	}
	workingDir := c.spec.WorkingDir
	if workingDir == "" {
		workingDir = image.WorkingDir
	}
	if workingDir == "" {
		workingDir = "/"
	}
	security := c.spec.SecurityContext
	return &sandbox{
		image: image, hosts: c.pod.hostsFile(), dir: dir, hostname: hosts.Hostname(object), uid: uid, gid: gid,
		readOnlyRoot: security != nil && isTrue(security.ReadOnlyRootFilesystem),
		workingDir:   workingDir, binds: binds, command: command, env: environ(env),
	}, nil
}

func expandAll(words []string, env map[string]string) []string {
	mapping := expansion.MappingFuncFor(env)
	result := make([]string, 0, len(words))
	for _, word := range words {
		result = append(result, expansion.Expand(word, mapping))
	}
	return result
}

// user is who the container runs as: what it says, what the pod says, what the image says.
func (c *container) user(object *v1.Pod, image *images.Image) (int64, int64, error) {
	uid, gid, nonRoot := image.User, image.User, false
	apply := func(user, group *int64, isNonRoot *bool) {
		if user != nil {
			uid, gid = *user, 0
		}
		if group != nil {
			gid = *group
		}
		if isNonRoot != nil {
			nonRoot = *isNonRoot
		}
	}
	outer, inner := object.Spec.SecurityContext, c.spec.SecurityContext
	if outer == nil {
		outer = &v1.PodSecurityContext{}
	}
	if inner == nil {
		inner = &v1.SecurityContext{}
	}
	apply(outer.RunAsUser, nil, outer.RunAsNonRoot)
	apply(inner.RunAsUser, outer.RunAsGroup, inner.RunAsNonRoot)
	apply(nil, inner.RunAsGroup, nil)
	if nonRoot && uid == 0 {
		return 0, 0, fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", c.podName(), c.spec.Name)
	}
	return uid, gid, nil
}

func (c *container) dir() string {
	return filepath.Join(c.pod.dir, "containers", c.spec.Name)
}

func (c *container) logPath(run int32) string {
	return filepath.Join(c.dir(), fmt.Sprintf("%d.log", run))
}

func (c *container) terminationFile() string {
	return filepath.Join(c.dir(), "termination-log")
}

func (c *container) binds(env map[string]string) ([]bind, error) {
	c.pod.mu.Lock()
	mounted := c.pod.volumes
	c.pod.mu.Unlock()
	if err := os.WriteFile(c.terminationFile(), nil, 0o666); err != nil {
		return nil, err
	}
	result := []bind{{source: c.terminationFile(), target: c.spec.TerminationMessagePath}}
	for _, mount := range c.spec.VolumeMounts {
		volume, found := mounted[mount.Name]
		if !found {
			return nil, fmt.Errorf("volume %q is not mounted", mount.Name)
		}
		sub := mount.SubPath
		if mount.SubPathExpr != "" {
			sub = expansion.Expand(mount.SubPathExpr, expansion.MappingFuncFor(env))
		}
		source, err := subPath(volume.Path, sub)
		if err != nil {
			return nil, fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q: %w", mount.Name, c.spec.Name, err)
		}
		result = append(result, bind{source: source, target: filepath.Clean(mount.MountPath), readOnly: mount.ReadOnly || volume.ReadOnly})
	}
	return result, nil
}

// subPath finds, or makes, a folder or file inside a volume; links cannot lead out of it.
func subPath(volume, sub string) (string, error) {
	if sub == "" {
		return volume, nil
	}
	path, err := securejoin.SecureJoin(volume, sub)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return path, os.MkdirAll(path, 0o777)
	}
	return path, nil
}

func (c *container) start(s *sandbox) (*running, error) {
	os.Remove(c.logPath(c.runs - 2)) // `kubectl logs --previous` reaches one run back
	log, err := newContainerLog(c.logPath(c.runs))
	if err != nil {
		return nil, err
	}
	c.event(v1.EventTypeNormal, "Created", "Container created")
	r, err := s.start(log)
	if err != nil {
		log.close()
		return nil, err
	}
	c.lastStart = time.Now()
	c.set(func(status *v1.ContainerStatus) {
		c.run, status.RestartCount = r, c.runs
		status.State = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(c.lastStart)}}
		status.ContainerID, status.ImageID = "localcluster://"+string(uuid.NewUUID()), c.spec.Image
		status.Ready, status.Started = false, new(bool)
	})
	c.event(v1.EventTypeNormal, "Started", "Container started")
	return r, nil
}

// watch stays with a process until it has ended by itself, by its probes or because ctx ended.
func (c *container) watch(ctx context.Context, r *running) {
	unhealthy := make(chan *v1.Probe, 1)
	probes, stop := context.WithCancel(ctx)
	defer stop()
	go c.probeAll(probes, r, unhealthy)
	if c.spec.Lifecycle != nil && c.spec.Lifecycle.PostStart != nil {
		if err := c.hook(ctx, r, c.spec.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
			c.event(v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed: %v", err)
			c.terminate(r, c.pod.grace())
		}
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		c.event(v1.EventTypeNormal, "Killing", "Stopping container %s", c.spec.Name)
		c.terminate(r, c.pod.grace())
	case probe := <-unhealthy:
		c.event(v1.EventTypeNormal, "Killing", "Container %s failed liveness probe, will be restarted", c.spec.Name)
		grace := c.pod.grace()
		if probe.TerminationGracePeriodSeconds != nil {
			grace = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
		}
		c.terminate(r, grace)
	}
}

// terminate runs the pre-stop hook, asks PID 1 to end and, when grace is over, kills.
func (c *container) terminate(r *running, grace time.Duration) {
	own := time.Now().Add(grace)
	killed, stop := context.WithDeadline(context.Background(), own)
	defer stop()
	if c.spec.Lifecycle != nil && c.spec.Lifecycle.PreStop != nil {
		if err := c.hook(killed, r, c.spec.Lifecycle.PreStop); err != nil {
			c.event(v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: %v", err)
		}
		own = later(own, time.Now().Add(minGrace))
	}
	r.signal(syscall.SIGTERM)
	for {
		deadline, hurried := c.pod.deadline(own)
		select {
		case <-r.done:
			return
		case <-time.After(time.Until(deadline)):
			r.signal(syscall.SIGKILL)
			<-r.done
			return
		case <-hurried:
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// deadline is when a container that has to end is killed; the channel closes when that may have changed.
func (p *pod) deadline(own time.Time) (time.Time, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.killTime.IsZero() && p.killTime.Before(own) {
		own = p.killTime
	}
	return own, p.hurried
}

// recordExit keeps how a run ended.
func (c *container) recordExit(r *running) int32 {
	ended := &v1.ContainerStateTerminated{
		ExitCode: int32(r.exitCode), Reason: "Completed", StartedAt: metav1.NewTime(c.lastStart), FinishedAt: metav1.Now(),
	}
	if r.exitCode != 0 {
		ended.Reason = "Error"
	}
	ended.Message = c.terminationMessage(r.exitCode != 0)
	if !r.started {
		ended.Reason, ended.Message = "StartError", "failed to start container: "+strings.TrimSpace(logTail(c.logPath(c.runs)))
		c.event(v1.EventTypeWarning, "Failed", "Error: %s", ended.Message)
	}
	c.set(func(status *v1.ContainerStatus) {
		ended.ContainerID = status.ContainerID
		status.State, status.Ready, status.Started = v1.ContainerState{Terminated: ended}, false, new(bool)
		c.run = nil
	})
	return ended.ExitCode
}

func (c *container) terminationMessage(failed bool) string {
	content, err := os.ReadFile(c.terminationFile())
	if err == nil && len(content) > 0 {
		return string(content[:min(len(content), terminationLimit)])
	}
	if failed && c.spec.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
		return logTail(c.logPath(c.runs))
	}
	return ""
}
