package node

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crilogs "k8s.io/cri-client/pkg/logs"
)

const maxLogLine = 16 << 10

// containerLog is a log file in the format of container runtimes, which carries each line's time.
type containerLog struct {
	mu      sync.Mutex
	file    *os.File
	streams []*logStream
}

type logStream struct {
	log     *containerLog
	name    string
	partial []byte
}

func newContainerLog(path string) (*containerLog, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	return &containerLog{file: file}, err
}

func (l *containerLog) stream(name string) io.Writer {
	stream := &logStream{log: l, name: name}
	l.streams = append(l.streams, stream)
	return stream
}

func (s *logStream) Write(data []byte) (int, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.partial = append(s.partial, data...)
	for {
		end := bytes.IndexByte(s.partial, '\n')
		if end < 0 {
			break
		}
		s.writeLine("F", s.partial[:end])
		s.partial = s.partial[end+1:]
	}
	if len(s.partial) > maxLogLine {
		s.writeLine("P", s.partial)
		s.partial = nil
	}
	return len(data), nil
}

func (s *logStream) writeLine(tag string, line []byte) {
	head := time.Now().UTC().Format(time.RFC3339Nano) + " " + s.name + " " + tag + " "
	_, _ = s.log.file.Write(append(append([]byte(head), line...), '\n')) // a full disk must not block the pod
}

func (l *containerLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, stream := range l.streams {
		if len(stream.partial) > 0 {
			stream.writeLine("P", stream.partial) // no newline of our own
		}
	}
	l.file.Close()
}

// runtimeStatus answers the log reader's one question: may more lines come?
type runtimeStatus struct {
	internalapi.RuntimeService
	running func() bool
}

func (s runtimeStatus) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	state := runtimeapi.ContainerState_CONTAINER_EXITED
	if s.running() {
		state = runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{State: state}}, nil
}

func readLog(ctx context.Context, path string, options *crilogs.LogOptions, running func() bool, out io.Writer) error {
	return crilogs.ReadLogs(ctx, path, "", options, runtimeStatus{running: running}, out, out)
}

// logTail is the end of a log as the kubelet puts it into a termination message: 80 lines, 2048 bytes.
func logTail(path string) string {
	lines := int64(80)
	var text strings.Builder
	_ = readLog(context.Background(), path, &crilogs.LogOptions{TailLines: &lines}, func() bool { return false }, &text)
	tail := text.String()
	return tail[max(0, len(tail)-2048):]
}
