package supervisor

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// settings are chosen once and kept in the cluster's folder.
type settings struct {
	Subnet int            `json:"subnet"` // 127.<subnet>.0.0/16 is the cluster's
	Ports  map[string]int `json:"ports"`
}

const firstSubnet, subnets = 10, 240

var portNames = []string{"etcd", "etcd-peer", "apiserver", "controller-manager", "scheduler", "kubelet"}

// cluster is a folder with everything about one cluster.
type cluster struct {
	dir     string
	project string
	settings
	claim net.Listener // holds the subnet for as long as the supervisor lives
}

func (c *cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

func (c *cluster) ip() string { return fmt.Sprintf("127.%d.0.1", c.Subnet) }

func (c *cluster) address(name string) string {
	return net.JoinHostPort(c.ip(), strconv.Itoa(c.Ports[name]))
}

func (c *cluster) url(name string) string { return "https://" + c.address(name) }

// lock makes this process the cluster's only supervisor; the kernel unlocks when it ends.
func (c *cluster) lock() (*os.File, error) {
	file, err := os.OpenFile(c.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("a cluster is already running in %s", c.dir)
	}
	if err := file.Truncate(0); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(file, "%d\n", os.Getpid())
	return file, err
}

// supervisorPID is the process that holds the lock, or 0.
func (c *cluster) supervisorPID() int {
	file, err := os.Open(c.path("lock"))
	if err != nil {
		return 0
	}
	defer file.Close()
	if syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil {
		return 0
	}
	var pid int
	_, _ = fmt.Fscan(file, &pid)
	return pid
}

// chooseAddresses keeps the addresses of last time if they are free.
func (c *cluster) chooseAddresses() error {
	if content, err := os.ReadFile(c.path("cluster.json")); err == nil {
		if err := json.Unmarshal(content, &c.settings); err != nil {
			return fmt.Errorf("%s: %w", c.path("cluster.json"), err)
		}
	}
	if err := c.claimSubnet(); err != nil {
		return err
	}
	kept := c.Ports
	c.Ports = map[string]int{}
	for _, name := range portNames {
		listener, err := net.Listen("tcp", net.JoinHostPort(c.ip(), strconv.Itoa(kept[name])))
		if err != nil {
			if listener, err = net.Listen("tcp", c.ip()+":0"); err != nil {
				return err
			}
		}
		defer listener.Close() // after all are chosen, so that they differ
		c.Ports[name] = listener.Addr().(*net.TCPAddr).Port
	}
	content, err := json.Marshal(c.settings)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("cluster.json"), content, 0o644)
}

// claimSubnet takes a part of 127.0.0.0/8 that no other cluster on this machine has: each holds an abstract socket of
// that name, which vanishes with its process.
func (c *cluster) claimSubnet() error {
	hash := fnv.New32a()
	hash.Write([]byte(c.dir))
	candidates := []int{}
	if c.Subnet >= firstSubnet && c.Subnet < firstSubnet+subnets {
		candidates = append(candidates, c.Subnet)
	}
	for i := range subnets {
		candidates = append(candidates, firstSubnet+(int(hash.Sum32()%subnets)+i)%subnets)
	}
	for _, subnet := range candidates {
		listener, err := net.Listen("unix", fmt.Sprintf("@localcluster-127.%d", subnet))
		if err == nil {
			c.Subnet, c.claim = subnet, listener
			return nil
		}
	}
	return fmt.Errorf("no free addresses: %d clusters are running on this machine", subnets)
}
