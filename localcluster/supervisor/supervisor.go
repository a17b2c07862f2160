// Package supervisor runs the control plane and the node as one tree of processes that lives and dies together.
package supervisor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"

	"finetune-operator.io/localcluster/images"
	"finetune-operator.io/localcluster/node"
	"finetune-operator.io/localcluster/process"
)

const (
	serviceRange   = "10.96.0.0/16"
	firstServiceIP = "10.96.0.1"
	pollInterval   = 100 * time.Millisecond
	etcdGrace      = 5 * time.Second
)

// component is one process of the control plane.
type component struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

type supervisor struct {
	*cluster
	ca         *authority
	report     func(format string, args ...any)
	components []*component
	failed     chan *component
	client     *http.Client
	kubernetes *rest.Config
	node       *node.Node
}

// run starts everything, says when it is ready, and ends everything when the context does.
func (s *supervisor) run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.shutDown(cancel)
	s.failed = make(chan *component, 8)
	if err := s.prepare(); err != nil {
		return err
	}
	began := time.Now()
	step := func(text string, action func(context.Context) error) error {
		err := s.whileAllRun(ctx, action)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		s.report("%-46s %5.1f s", text, time.Since(began).Seconds())
		return nil
	}
	if err := s.start("etcd", s.etcdArgs()...); err != nil {
		return err
	}
	if err := s.start("kube-apiserver", s.apiserverArgs()...); err != nil {
		return err
	}
	if err := step("etcd and kube-apiserver are ready", s.healthy("apiserver", "/readyz")); err != nil {
		return err
	}
	if err := s.start("kube-controller-manager", s.controllerArgs()...); err != nil {
		return err
	}
	if err := s.start("kube-scheduler", s.schedulerArgs()...); err != nil {
		return err
	}
	if err := step("node "+node.Name+" is registered", s.startNode(ctx)); err != nil {
		return err
	}
	if err := step("kube-controller-manager is ready", s.healthy("controller-manager", "/healthz")); err != nil {
		return err
	}
	if err := step("kube-scheduler is ready", s.healthy("scheduler", "/readyz")); err != nil {
		return err
	}
	if err := step("node "+node.Name+" is Ready", s.awaitNode); err != nil {
		return err
	}
	ready()
	select {
	case <-ctx.Done():
		return nil
	case failed := <-s.failed:
		return s.ended(failed)
	}
}

func (s *supervisor) ended(c *component) error {
	return fmt.Errorf("%s ended (%s): see %s", c.name, c.cmd.ProcessState, s.path("logs", c.name+".log"))
}

func (s *supervisor) prepare() error {
	if err := checkBubblewrap(); err != nil {
		return err
	}
	for _, dir := range []string{"logs", "pods", "volumes", "bin"} {
		if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := s.linkTools(); err != nil {
		return err
	}
	if err := s.chooseAddresses(); err != nil {
		return err
	}
	ca, err := openAuthority(s.path("pki"))
	if err != nil {
		return err
	}
	s.ca = ca
	if err := ca.issueAll(s.ip()); err != nil {
		return err
	}
	for name, path := range map[string]string{
		"admin": s.path("kubeconfig"), "node": ca.file("node.kubeconfig"),
		"controller-manager": ca.file("controller-manager.kubeconfig"), "scheduler": ca.file("scheduler.kubeconfig"),
	} {
		if err := ca.writeKubeconfig(path, name, s.url("apiserver")); err != nil {
			return err
		}
	}
	if s.kubernetes, err = clientcmd.BuildConfigFromFlags("", ca.file("node.kubeconfig")); err != nil {
		return err
	}
	s.kubernetes.QPS, s.kubernetes.Burst = 200, 400
	s.client, err = s.healthClient()
	return err
}

// linkTools puts this program into the cluster's bin folder, also under the names of kubectl and helm, which it is too.
func (s *supervisor) linkTools() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range []string{"localcluster", "kubectl", "helm"} {
		link := s.path("bin", name)
		os.Remove(link)
		if err := os.Symlink(self, link); err != nil {
			return err
		}
	}
	return nil
}

func checkBubblewrap() error {
	output, err := exec.Command("bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "true").CombinedOutput()
	if err == nil {
		return nil
	}
	if len(output) == 0 {
		return fmt.Errorf("bubblewrap (bwrap) is needed to run pods: install the package bubblewrap (%w)", err)
	}
	return fmt.Errorf("bubblewrap cannot make a sandbox here: %s\nA user needs unprivileged user namespaces "+
		"(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)", output)
}

// start runs a component of this same program with its output in a log file.
func (s *supervisor) start(name string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(s.path("logs", name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := &component{name: name, cmd: exec.Command(self, append([]string{name}, args...)...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := process.Start(c.cmd); err != nil {
		return err
	}
	s.components = append(s.components, c)
	go func() {
		_ = c.cmd.Wait() // how it ended is in its ProcessState
		close(c.done)
		s.failed <- c
	}()
	return nil
}

// whileAllRun gives up on an action as soon as a component ends.
func (s *supervisor) whileAllRun(ctx context.Context, action func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- action(ctx) }()
	select {
	case err := <-result:
		return err
	case failed := <-s.failed:
		return s.ended(failed)
	}
}

func (s *supervisor) healthClient() (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(s.ca.file("admin.crt"), s.ca.file("admin.key"))
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: s.pool(), Certificates: []tls.Certificate{pair}}
	return &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: config}}, nil
}

func (s *supervisor) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.cert)
	return pool
}

func (s *supervisor) healthy(name, path string) func(context.Context) error {
	return func(ctx context.Context) error {
		return poll(ctx, func() bool {
			response, err := s.client.Get(s.url(name) + path)
			if err != nil {
				return false
			}
			response.Body.Close()
			return response.StatusCode == http.StatusOK
		})
	}
}

func poll(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
	return nil
}

// startNode starts the node, which lives as long as the cluster.
func (s *supervisor) startNode(life context.Context) func(context.Context) error {
	return func(context.Context) error {
		pair, err := tls.LoadX509KeyPair(s.ca.file("server.crt"), s.ca.file("server.key"))
		if err != nil {
			return err
		}
		// Only the API server may read logs and run commands in pods.
		serving := &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.pool()}
		s.node, err = node.Start(life, node.Config{
			Dir: s.dir, IP: s.ip(), PodNet: fmt.Sprintf("127.%d", s.Subnet), Port: s.Ports["kubelet"],
			APIHost: s.ip(), APIPort: s.Ports["apiserver"], Client: s.kubernetes, TLS: serving,
			Images:  &images.Catalog{File: filepath.Join(s.project, "localcluster", "images.yaml"), Project: s.project},
			Version: version.Get().GitVersion,
		})
		return err
	}
}

func (s *supervisor) awaitNode(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(s.kubernetes)
	if err != nil {
		return err
	}
	return poll(ctx, func() bool { return nodeReady(ctx, client) })
}

// nodeReady says whether the node takes pods: a new node is tainted until the controllers have seen it.
func nodeReady(ctx context.Context, client kubernetes.Interface) bool {
	object, err := client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil || len(object.Spec.Taints) > 0 {
		return false
	}
	for _, condition := range object.Status.Conditions {
		if condition.Type == v1.NodeReady {
			return condition.Status == v1.ConditionTrue
		}
	}
	return false
}

// shutDown ends pods and control plane at once; only etcd is asked to, since the others keep nothing.
func (s *supervisor) shutDown(cancel func()) {
	cancel()
	if s.node != nil {
		s.node.Kill()
	}
	for i := len(s.components) - 1; i >= 0; i-- {
		c := s.components[i]
		if c.name == "etcd" {
			_ = c.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-c.done:
			case <-time.After(etcdGrace):
			}
		}
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}
