package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	crilogs "k8s.io/cri-client/pkg/logs"
)

// serve answers the API server for `kubectl logs`, `exec` and `port-forward`.
func (n *Node) serve() error {
	listener, err := net.Listen("tcp", net.JoinHostPort(n.cfg.IP, strconv.Itoa(n.cfg.Port)))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", n.logs)
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", n.exec)
	mux.HandleFunc("/portForward/{namespace}/{pod}", n.portForward)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { <-n.ctx.Done(); server.Close() }()
	go server.Serve(tls.NewListener(listener, n.cfg.TLS))
	return nil
}

func (n *Node) findPod(namespace, name string) (*pod, error) {
	for _, p := range n.running() {
		if p.first.Namespace == namespace && p.first.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("pod %q does not exist", name)
}

func (n *Node) find(namespace, name, containerName string) (*container, error) {
	p, err := n.findPod(namespace, name)
	if err != nil {
		return nil, err
	}
	for _, c := range p.containers() {
		if c.spec.Name == containerName {
			return c, nil
		}
	}
	return nil, fmt.Errorf("container %q not found in pod %q", containerName, name)
}

func (n *Node) logs(w http.ResponseWriter, r *http.Request) {
	c, err := n.find(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	run, err := c.logRun(r.URL.Query().Get("previous") == "true")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	running := func() bool { return c.running() != nil && c.restarts() == run }
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	// The answer has begun: an error can only end it.
	_ = readLog(r.Context(), c.logPath(run), options, running, flushWriter{w})
}

// logRun chooses a run as the kubelet does: of a container that waits, the last one that ended is shown either way.
func (c *container) logRun(previous bool) (int32, error) {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	run, state, name := c.status.RestartCount, c.status.State, c.pod.first.Name
	if waits := state.Waiting; waits != nil && c.status.LastTerminationState.Terminated == nil {
		return 0, fmt.Errorf("container %q in pod %q is waiting to start: %s", c.spec.Name, name, waits.Reason)
	}
	if previous && state.Waiting == nil {
		run--
	}
	if _, err := os.Stat(c.logPath(run)); err != nil {
		if previous {
			return 0, fmt.Errorf("previous terminated container %q in pod %q not found", c.spec.Name, name)
		}
		return 0, fmt.Errorf("container %q in pod %q has no log any more", c.spec.Name, name)
	}
	return run, nil
}

func logOptions(query url.Values) (*crilogs.LogOptions, error) {
	options := &crilogs.LogOptions{Follow: query.Get("follow") == "true", Timestamp: query.Get("timestamps") == "true"}
	var seconds *int64
	for name, target := range map[string]**int64{
		"tailLines": &options.TailLines, "limitBytes": &options.LimitBytes, "sinceSeconds": &seconds,
	} {
		if text := query.Get(name); text != "" {
			value, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s: %q is not a whole number", name, text)
			}
			*target = &value
		}
	}
	if seconds != nil {
		options.Since = time.Now().Add(-time.Duration(*seconds) * time.Second)
	}
	if text := query.Get("sinceTime"); text != "" {
		value, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("sinceTime: %q is not an RFC 3339 time", text)
		}
		options.Since = value
	}
	return options, nil
}

// flushWriter sends each line at once.
type flushWriter struct{ http.ResponseWriter }

func (f flushWriter) Write(data []byte) (int, error) {
	count, err := f.ResponseWriter.Write(data)
	if flusher, ok := f.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
	return count, err
}
