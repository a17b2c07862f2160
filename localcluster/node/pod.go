package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"finetune-operator.io/localcluster/hosts"
	"finetune-operator.io/localcluster/volumes"
)

const (
	refreshVolumes = time.Minute
	maxMountDelay  = 10 * time.Second
	defaultGrace   = 30
)

// pod runs one pod from binding to deletion.
type pod struct {
	node     *Node
	first    *v1.Pod // as first seen: what never changes is read here, without the lock
	uid      types.UID
	dir      string
	ip       string
	ctx      context.Context // ends when the pod has to stop
	stop     context.CancelFunc
	gone     chan struct{} // closed when the API server has no such pod any more
	deleting chan struct{} // closed when the API server waits for this node to let go of it

	inits, mains []*container
	dirty        chan struct{} // the status has to be written
	writing      sync.Mutex    // one status write at a time
	written      []byte

	mu         sync.Mutex
	object     *v1.Pod
	hostsText  string
	volumes    map[string]volumes.Volume
	killTime   time.Time     // when grace ends, once the pod has to stop
	hurried    chan struct{} // closed when killTime moved
	finished   bool          // no container will run again
	reason     string        // why the node ended the pod
	message    string
	conditions map[v1.PodConditionType]v1.PodCondition
	forgotten  bool
	letGo      bool
}

func newPod(n *Node, object *v1.Pod, ip string) *pod {
	ctx, stop := context.WithCancel(n.ctx)
	p := &pod{
		node: n, first: object, uid: object.UID, ip: ip, ctx: ctx, stop: stop, object: object,
		dir:  filepath.Join(n.cfg.Dir, "pods", dirName(object)),
		gone: make(chan struct{}), deleting: make(chan struct{}), dirty: make(chan struct{}, 1), hurried: make(chan struct{}),
		conditions: map[v1.PodConditionType]v1.PodCondition{},
		reason:     object.Status.Reason, message: object.Status.Message,
		finished: object.Status.Phase == v1.PodSucceeded || object.Status.Phase == v1.PodFailed,
	}
	for _, condition := range object.Status.Conditions {
		p.conditions[condition.Type] = condition
	}
	for i := range object.Spec.InitContainers {
		p.inits = append(p.inits, newContainer(p, &object.Spec.InitContainers[i], true, object.Status.InitContainerStatuses))
	}
	for i := range object.Spec.Containers {
		p.mains = append(p.mains, newContainer(p, &object.Spec.Containers[i], false, object.Status.ContainerStatuses))
	}
	return p
}

func (p *pod) containers() []*container {
	return append(append([]*container{}, p.inits...), p.mains...)
}

// current is the pod as last seen, with the addresses that this node gives it.
func (p *pod) current() *v1.Pod {
	p.mu.Lock()
	object := p.object.DeepCopy()
	p.mu.Unlock()
	object.Status.PodIP, object.Status.PodIPs = p.ip, []v1.PodIP{{IP: p.ip}}
	object.Status.HostIP, object.Status.HostIPs = p.node.cfg.IP, []v1.HostIP{{IP: p.node.cfg.IP}}
	return object
}

func (p *pod) event(kind, reason, format string, args ...any) {
	p.node.events.Eventf(p.first, kind, reason, format, args...)
}

func (p *pod) update(object *v1.Pod) {
	p.mu.Lock()
	if object.DeletionTimestamp != nil && !p.letGo {
		p.letGo = true
		close(p.deleting)
	}
	p.object = object
	p.mu.Unlock()
	if object.DeletionTimestamp != nil {
		grace := int64(defaultGrace)
		if object.DeletionGracePeriodSeconds != nil {
			grace = *object.DeletionGracePeriodSeconds
		}
		p.end(time.Duration(grace)*time.Second, "", "")
	}
	if len(object.Spec.ReadinessGates) > 0 {
		p.touch()
	}
}

// end stops the pod after a grace period; a later call can only shorten it.
func (p *pod) end(grace time.Duration, reason, message string) {
	p.mu.Lock()
	killTime := time.Now().Add(grace)
	if p.killTime.IsZero() || killTime.Before(p.killTime) {
		p.killTime = killTime
		close(p.hurried)
		p.hurried = make(chan struct{})
	}
	if !p.finished && p.reason == "" {
		p.reason, p.message = reason, message
	}
	p.mu.Unlock()
	p.stop()
}

func (p *pod) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.forgotten {
		p.forgotten = true
		close(p.gone)
	}
}

func (p *pod) isGone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forgotten
}

func (p *pod) kill() {
	for _, c := range p.containers() {
		if r := c.running(); r != nil {
			_ = r.cmd.Process.Kill()
			<-r.done
		}
	}
}

func (p *pod) run() {
	go p.writeStatuses()
	go func() { // deleted without waiting for this node
		select {
		case <-p.gone:
			p.end(0, "", "")
		case <-p.node.ctx.Done():
		}
	}()
	if !p.isFinished() {
		p.work()
		if p.node.ctx.Err() != nil {
			return // the node stops: the pod goes on when it is back
		}
		p.conclude()
	}
	p.awaitDeletion()
	if p.node.ctx.Err() == nil {
		os.RemoveAll(p.dir)
		p.node.release(p)
	}
}

// work runs the pod's containers to their end.
func (p *pod) work() {
	p.limitTime()
	p.interrupted()
	if !p.setUp() {
		return
	}
	go p.refresh()
	var running sync.WaitGroup
	defer running.Wait()
	sidecars, stopSidecars := context.WithCancel(p.ctx)
	defer stopSidecars()
	for _, c := range p.inits {
		if !c.sidecar {
			if !c.loop(p.ctx) {
				return
			}
			continue
		}
		running.Go(func() { c.loop(sidecars) })
		select {
		case <-c.up:
		case <-p.ctx.Done():
			return
		}
	}
	var mains sync.WaitGroup
	for _, c := range p.mains {
		if !c.isDone() {
			mains.Go(func() { c.loop(p.ctx) })
		}
	}
	mains.Wait()
}

// interrupted settles containers that ran when the node went down.
func (p *pod) interrupted() {
	for _, c := range p.containers() {
		c.settle("The container could not be located when the node came back")
	}
}

func (p *pod) limitTime() {
	seconds := p.first.Spec.ActiveDeadlineSeconds
	if seconds == nil {
		return
	}
	begin := time.Now()
	if started := p.first.Status.StartTime; started != nil {
		begin = started.Time
	}
	timer := time.AfterFunc(time.Until(begin.Add(time.Duration(*seconds)*time.Second)), func() {
		p.end(p.grace(), "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
	})
	context.AfterFunc(p.ctx, func() { timer.Stop() })
}

func (p *pod) grace() time.Duration {
	if seconds := p.first.Spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return defaultGrace * time.Second
}

// setUp makes the pod's folder and volumes, trying until it works or the pod has to stop.
func (p *pod) setUp() bool {
	for delay := time.Second; ; delay = min(2*delay, maxMountDelay) {
		err := os.MkdirAll(p.dir, 0o755)
		if err == nil {
			err = p.writeHosts(p.node.names(p.current().Namespace))
		}
		if err == nil {
			err = p.mount()
		}
		if err == nil {
			return p.ctx.Err() == nil
		}
		if p.ctx.Err() == nil {
			p.event(v1.EventTypeWarning, "FailedMount", "%v", err)
		}
		p.touch()
		select {
		case <-p.ctx.Done():
			return false
		case <-time.After(delay):
		}
	}
}

func (p *pod) mount() error {
	mounted, err := p.node.mounter.SetUp(p.ctx, p.current(), filepath.Join(p.dir, "volumes"))
	if err == nil {
		p.mu.Lock()
		p.volumes = mounted
		p.mu.Unlock()
	}
	return err
}

// refresh carries changes of ConfigMaps, Secrets, labels and tokens into the pod's volumes, as the kubelet does.
func (p *pod) refresh() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(refreshVolumes):
		}
		if p.isFinished() {
			return
		}
		if err := p.mount(); err != nil && p.ctx.Err() == nil {
			p.event(v1.EventTypeWarning, "FailedMount", "%v", err)
		}
	}
}

// writeHosts is quiet until the pod has its folder.
func (p *pod) writeHosts(shared string) error {
	object := p.current()
	p.mu.Lock()
	defer p.mu.Unlock()
	text := hosts.ForPod(shared, object, p.ip)
	if _, err := os.Stat(p.dir); err != nil || text == p.hostsText {
		return nil
	}
	if err := hosts.Write(p.hostsFile(), text); err != nil {
		return fmt.Errorf("hosts: %w", err)
	}
	p.hostsText = text
	return nil
}

func (p *pod) hostsFile() string { return filepath.Join(p.dir, "hosts") }

// conclude writes the last status.
func (p *pod) conclude() {
	if p.ctx.Err() != nil {
		for _, c := range p.containers() {
			c.settle("The container could not be located when the pod was terminated")
		}
	}
	p.mu.Lock()
	p.finished = true
	p.mu.Unlock()
	p.node.retry(func() error { return p.writeStatus() })
}

func (p *pod) isFinished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.finished
}

// awaitDeletion keeps an ended pod's logs until it is deleted, and lets the API server forget it.
func (p *pod) awaitDeletion() {
	select {
	case <-p.deleting:
		p.node.retry(func() error { return p.node.remove(p.current()) })
	case <-p.gone:
	case <-p.node.ctx.Done():
	}
	select { // finalizers may hold it
	case <-p.gone:
	case <-p.node.ctx.Done():
	}
}

func (n *Node) remove(object *v1.Pod) error {
	err := n.client.CoreV1().Pods(object.Namespace).Delete(n.ctx, object.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &object.UID},
	})
	if errors.IsNotFound(err) || errors.IsConflict(err) {
		return nil
	}
	return err
}

// retry repeats a call until it succeeds or the node stops.
func (n *Node) retry(call func() error) {
	for delay := 100 * time.Millisecond; n.ctx.Err() == nil; delay = min(2*delay, 5*time.Second) {
		if call() == nil {
			return
		}
		select {
		case <-n.ctx.Done():
		case <-time.After(delay):
		}
	}
}
