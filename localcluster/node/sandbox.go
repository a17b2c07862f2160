package node

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"finetune-operator.io/localcluster/images"
	"finetune-operator.io/localcluster/process"
)

// Host files that programs expect in /etc; hosts, passwd and group are the pod's own.
var etcFiles = []string{
	"alternatives", "ca-certificates", "crypto-policies", "debian_version", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
	"localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "pki", "protocols", "resolv.conf", "services", "ssl",
	"timezone",
}

var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// bind is one mount of a container.
type bind struct {
	source, target string
	readOnly       bool
}

// sandbox describes one container's process for bubblewrap.
type sandbox struct {
	image        *images.Image
	hosts        string // the pod's /etc/hosts
	dir          string // the container's folder, with passwd and group
	hostname     string
	uid, gid     int64
	readOnlyRoot bool
	workingDir   string
	binds        []bind
	command      []string
	env          []string
}

// args writes the mounts from the root downwards, so that a mount below another is made after it.
//
// The user namespace maps the pod's one user to the user who runs the cluster, so a pod owns the files of its volumes
// whoever it runs as, and nothing here needs root. /dev is made by hand: bubblewrap's own needs a second user namespace,
// which `kubectl exec` could not enter.
func (s *sandbox) args() []string {
	uid, gid := strconv.FormatInt(s.uid, 10), strconv.FormatInt(s.gid, 10)
	args := []string{
		"--json-status-fd", "3", "--die-with-parent", "--as-pid-1", "--new-session", "--unshare-user", "--uid", uid, "--gid", gid,
		"--unshare-pid", "--unshare-uts", "--unshare-ipc", "--hostname", s.hostname, "--ro-bind", "/usr", "/usr",
	}
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64"} {
		if target, err := os.Readlink(name); err == nil {
			args = append(args, "--symlink", target, name)
		} else {
			args = append(args, "--ro-bind-try", name, name)
		}
	}
	args = append(args, "--proc", "/proc", "--ro-bind", "/sys", "/sys", "--dir", "/run", "--dir", "/var/tmp", "--tmpfs", "/dev")
	for _, name := range devices {
		args = append(args, "--dev-bind-try", "/dev/"+name, "/dev/"+name)
	}
	args = append(args, "--symlink", "/proc/self/fd", "/dev/fd", "--symlink", "/proc/self/fd/0", "/dev/stdin",
		"--symlink", "/proc/self/fd/1", "/dev/stdout", "--symlink", "/proc/self/fd/2", "/dev/stderr", "--tmpfs", "/dev/shm")
	for _, name := range etcFiles {
		if source, err := filepath.EvalSymlinks("/etc/" + name); err == nil {
			args = append(args, "--ro-bind", source, "/etc/"+name)
		}
	}
	args = append(args, "--ro-bind", s.hosts, "/etc/hosts")
	for _, name := range []string{"passwd", "group"} {
		args = append(args, "--ro-bind", filepath.Join(s.dir, name), "/etc/"+name)
	}
	if !s.readOnlyRoot {
		args = append(args, "--perms", "1777", "--tmpfs", "/tmp")
	}
	// A checkout below /tmp must stay in sight when a volume is mounted at /tmp: the image's folders are sorted in too.
	binds := []bind{}
	for _, path := range s.image.Binds {
		if _, err := os.Stat(path); err == nil {
			binds = append(binds, bind{source: path, target: path, readOnly: true})
		}
	}
	binds = append(binds, s.binds...)
	slices.SortStableFunc(binds, func(a, b bind) int {
		return strings.Count(a.target, "/") - strings.Count(b.target, "/")
	})
	for _, b := range binds {
		if b.readOnly {
			args = append(args, "--ro-bind", b.source, b.target)
		} else {
			args = append(args, "--bind", b.source, b.target)
		}
	}
	args = append(args, "--dir", s.workingDir)
	if s.readOnlyRoot {
		args = append(args, "--remount-ro", "/")
	}
	return append(append(args, "--chdir", s.workingDir, "--"), s.command...)
}

// writeAccounts gives the pod's user a name, which Python's getpass and others insist on.
func writeAccounts(dir string, uid, gid int64) error {
	passwd := "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	group := "root:x:0:\nnogroup:x:65534:\n"
	if uid != 0 && uid != 65534 {
		passwd += fmt.Sprintf("user:x:%d:%d::/tmp:/bin/sh\n", uid, gid)
	}
	if gid != 0 && gid != 65534 {
		group += fmt.Sprintf("user:x:%d:\n", gid)
	}
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(passwd), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "group"), []byte(group), 0o644)
}

// running is a container's process.
type running struct {
	cmd        *exec.Cmd
	log        *containerLog
	pid        int // PID 1 of the container, as the host sees it
	main       *os.Process
	env        []string
	workingDir string
	done       chan struct{}
	exitCode   int
	started    bool // the command was found and executed
}

type bwrapStatus struct {
	ChildPID *int `json:"child-pid"`
	ExitCode *int `json:"exit-code"`
}

func (s *sandbox) start(log *containerLog) (*running, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	cmd := exec.Command("bwrap", s.args()...)
	cmd.Env, cmd.ExtraFiles = s.env, []*os.File{write}
	cmd.Stdout, cmd.Stderr = log.stream("stdout"), log.stream("stderr")
	if err := process.Start(cmd); err != nil {
		read.Close()
		return nil, err
	}
	write.Close()
	r := &running{cmd: cmd, log: log, env: s.env, workingDir: s.workingDir, done: make(chan struct{})}
	status := json.NewDecoder(read)
	var first bwrapStatus
	if status.Decode(&first) == nil && first.ChildPID != nil {
		r.pid = *first.ChildPID
		r.main, _ = os.FindProcess(r.pid) // holds a pidfd: never signals a later process of the same number
	}
	go r.wait(read, status)
	return r, nil
}

// wait learns from bubblewrap whether the command ran; without an exit-code it could not be executed.
func (r *running) wait(read *os.File, status *json.Decoder) {
	defer read.Close()
	for {
		var next bwrapStatus
		if status.Decode(&next) != nil {
			break
		}
		if next.ExitCode != nil {
			r.exitCode, r.started = *next.ExitCode, true
		}
	}
	err := r.cmd.Wait()
	if !r.started {
		r.exitCode = 128
		if state, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && state.Signaled() {
			r.exitCode, r.started = 128+int(state.Signal()), true
		} else if err == nil {
			r.exitCode, r.started = 0, true
		}
	}
	r.log.close()
	close(r.done)
}

func (r *running) signal(signal syscall.Signal) {
	if r.main != nil {
		_ = r.main.Signal(signal) // an error means that it has ended
	}
	if signal == syscall.SIGKILL {
		_ = r.cmd.Process.Kill()
	}
}

// enter prepares a command that runs inside the container, in the container's working directory.
func (r *running) enter(command []string) *exec.Cmd {
	r.awaitCommand()
	args := []string{"--target", strconv.Itoa(r.pid), "--user", "--mount", "--pid", "--uts", "--ipc", "--preserve-credentials",
		"--", "env", "-C", r.workingDir}
	cmd := exec.Command("nsenter", append(args, command...)...)
	cmd.Env = r.env
	return cmd
}

// awaitCommand waits until bubblewrap has become the container's command: before that the mounts are not all there.
func (r *running) awaitCommand() {
	for {
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", r.pid))
		if err != nil || filepath.Base(program) != "bwrap" {
			return
		}
		select {
		case <-r.done:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
