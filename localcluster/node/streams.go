package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"finetune-operator.io/localcluster/process"
)

// exec answers `kubectl exec` without a terminal.
func (n *Node) exec(w http.ResponseWriter, r *http.Request) {
	c, err := n.find(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	config := streaming.DefaultConfig
	remotecommand.ServeExec(w, r, executor{c}, "", "", "", r.URL.Query()["command"], options,
		config.StreamIdleTimeout, config.StreamCreationTimeout, config.SupportedRemoteCommandProtocols)
}

type executor struct{ *container }

func (e executor) ExecInContainer(
	ctx context.Context, _, _, _ string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool,
	_ <-chan remotecommand.TerminalSize, _ time.Duration,
) error {
	if tty {
		return errors.New("localcluster has no terminals: use kubectl exec without -t")
	}
	r := e.running()
	if r == nil {
		return fmt.Errorf("container %q is not running", e.spec.Name)
	}
	cmd := r.enter(command)
	cmd.Stdout, cmd.Stderr = out, errOut
	if in != nil {
		// A pipe of our own: Wait must not wait for more input after the command has ended.
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(stdin, in)
			stdin.Close()
		}()
	}
	if err := process.Start(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return utilexec.CodeExitError{Err: err, Code: failed.ExitCode()}
	}
	return err
}

// portForward answers `kubectl port-forward`.
func (n *Node) portForward(w http.ResponseWriter, r *http.Request) {
	p, err := n.findPod(r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	config := streaming.DefaultConfig
	portforward.ServePortForward(w, r, forwarder{p.ip}, "", "", options,
		config.StreamIdleTimeout, config.StreamCreationTimeout, config.SupportedPortForwardProtocols)
}

type forwarder struct{ ip string }

func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(f.ip, strconv.Itoa(int(port))))
	if err != nil {
		return err
	}
	defer connection.Close()
	go func() {
		_, _ = io.Copy(connection, stream)
		_ = connection.(*net.TCPConn).CloseWrite()
	}()
	_, err = io.Copy(stream, connection)
	return err
}
