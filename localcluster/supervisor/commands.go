package supervisor

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	readyMark   = "ready"
	failureMark = "error: "
	downGrace   = 15 * time.Second
)

func port(number int) string { return strconv.Itoa(number) }

// Main is the commands up, down, run and status; it returns the exit status.
func Main(command string, args []string) int {
	c := &cluster{}
	flags := flag.NewFlagSet("localcluster "+command, flag.ContinueOnError)
	flags.StringVar(&c.dir, "dir", ".localcluster", "folder with everything about the cluster")
	var timeout time.Duration
	var purge bool
	var reportFD int
	switch command {
	case "up":
		flags.DurationVar(&timeout, "timeout", 3*time.Minute, "give up after this time")
		fallthrough
	case "run":
		flags.StringVar(&c.project, "project", ".", "root of the project: pods see its sources, and localcluster/images.yaml is read")
		flags.IntVar(&reportFD, "report-fd", 0, "file descriptor for progress (used by up)")
	case "down":
		flags.BoolVar(&purge, "purge", false, "also remove the cluster's state, volumes and logs")
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	err := c.resolve(flags.Args())
	if err == nil {
		switch command {
		case "up":
			err = c.up(timeout)
		case "run":
			err = c.run(reportFD)
		case "down":
			err = c.down(purge)
		case "status":
			err = c.status()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "localcluster: "+err.Error())
		return 1
	}
	return 0
}

func (c *cluster) resolve(rest []string) (err error) {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q", rest[0])
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return err
	}
	if c.project, err = filepath.Abs(c.project); err != nil {
		return err
	}
	return os.MkdirAll(c.dir, 0o755)
}

// run is the supervisor in the foreground.
func (c *cluster) run(reportFD int) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	lock, err := c.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	var report io.Writer = os.Stdout
	if reportFD > 0 {
		syscall.CloseOnExec(reportFD)
		report = os.NewFile(uintptr(reportFD), "report")
	}
	say := func(format string, args ...any) { fmt.Fprintf(report, format+"\n", args...) }
	if _, err := os.Stat(filepath.Join(c.project, "localcluster", "images.yaml")); err != nil {
		err = fmt.Errorf("--project %s has no localcluster/images.yaml: run this from the project's root, or name it", c.project)
		say("%s", failureMark+err.Error())
		return err
	}
	s := &supervisor{cluster: c, report: say}
	err = s.run(ctx, func() {
		say("The API server is %s; export KUBECONFIG=%s", c.url("apiserver"), c.path("kubeconfig"))
		say(readyMark)
	})
	if err != nil && ctx.Err() == nil {
		say("%s", failureMark+err.Error())
		return err
	}
	return nil
}

// up starts the supervisor in a session of its own and shows its progress until it is ready.
func (c *cluster) up(timeout time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if c.supervisorPID() != 0 {
		return c.awaitReady(ctx)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.path("logs"), 0o755); err != nil {
		return err
	}
	log, err := os.Create(c.path("logs", "supervisor.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "run", "--dir", c.dir, "--project", c.project, "--report-fd", "3")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	write.Close()
	result := make(chan error, 1)
	go func() { result <- c.follow(read) }()
	select {
	case err = <-result:
		return err
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("not ready after %s: see %s", timeout, c.path("logs"))
		}
		return errors.New("interrupted")
	}
}

// follow prints the supervisor's progress and returns when it is ready or has failed.
func (c *cluster) follow(progress io.Reader) error {
	for lines := bufio.NewScanner(progress); lines.Scan(); {
		line := lines.Text()
		if line == readyMark {
			return nil
		}
		if text, failed := strings.CutPrefix(line, failureMark); failed {
			return errors.New(text)
		}
		fmt.Println(line)
	}
	return fmt.Errorf("the supervisor ended: see %s", c.path("logs", "supervisor.log"))
}

// awaitReady waits for a cluster that somebody else started.
func (c *cluster) awaitReady(ctx context.Context) error {
	for {
		server, err := c.check(ctx)
		if err == nil {
			fmt.Printf("The API server is %s; export KUBECONFIG=%s\n", server, c.path("kubeconfig"))
			return nil
		}
		if c.supervisorPID() == 0 {
			return fmt.Errorf("the supervisor ended: see %s", c.path("logs", "supervisor.log"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a cluster runs in %s but is not ready (%w): `localcluster down` ends it", c.dir, err)
		case <-time.After(pollInterval):
		}
	}
}

// check says where a healthy cluster is.
func (c *cluster) check(ctx context.Context) (string, error) {
	if c.supervisorPID() == 0 {
		return "", errors.New("not running")
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.path("kubeconfig"))
	if err != nil {
		return "", err
	}
	config.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	if !nodeReady(ctx, client) {
		return "", errors.New("the node is not ready")
	}
	return config.Host, nil
}

func (c *cluster) status() error {
	server, err := c.check(context.Background())
	if err == nil {
		fmt.Printf("running: supervisor %d, API server %s, kubeconfig %s\n", c.supervisorPID(), server, c.path("kubeconfig"))
	}
	return err
}

// down ends the supervisor, and everything with it.
func (c *cluster) down(purge bool) error {
	if pid := c.supervisorPID(); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGTERM)
		ctx, cancel := context.WithTimeout(context.Background(), downGrace)
		defer cancel()
		if poll(ctx, func() bool { return c.supervisorPID() == 0 }) != nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if !purge {
		return nil
	}
	for _, name := range []string{"etcd", "pki", "pods", "volumes", "logs", "kubeconfig", "cluster.json", "lock"} {
		if err := os.RemoveAll(c.path(name)); err != nil {
			return err
		}
	}
	return nil
}
