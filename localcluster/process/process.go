// Package process starts children that cannot outlive this program.
//
// The kernel sends a child its parent-death signal when the thread that started it ends, not when the process does. Go
// moves goroutines between threads and ends idle ones, so every child is started from one thread that is never given up.
package process

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

var (
	once     sync.Once
	requests = make(chan func())
)

func serve() {
	runtime.LockOSThread()
	for request := range requests {
		request()
	}
}

// Start is cmd.Start for a child that the kernel kills when this program ends, however it ends. The child leads a
// process group of its own, so that Ctrl-C in the terminal reaches this program only.
func Start(cmd *exec.Cmd) error {
	once.Do(func() { go serve() })
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	result := make(chan error)
	requests <- func() { result <- cmd.Start() }
	return <-result
}

// Run is Start and Wait.
func Run(cmd *exec.Cmd) error {
	if err := Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}
