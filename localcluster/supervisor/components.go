package supervisor

// Flags of the control plane's components: one member of each, on the cluster's own loopback address.

func (s *supervisor) etcdArgs() []string {
	peer := "http://" + s.address("etcd-peer")
	return []string{
		"--name=localcluster", "--data-dir=" + s.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + s.url("etcd"), "--advertise-client-urls=" + s.url("etcd"),
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=localcluster=" + peer,
		"--client-cert-auth", "--trusted-ca-file=" + s.ca.file("ca.crt"),
		"--cert-file=" + s.ca.file("server.crt"), "--key-file=" + s.ca.file("server.key"),
	}
}

func (s *supervisor) apiserverArgs() []string {
	return []string{
		"--etcd-servers=" + s.url("etcd"), "--etcd-cafile=" + s.ca.file("ca.crt"),
		"--etcd-certfile=" + s.ca.file("apiserver-client.crt"), "--etcd-keyfile=" + s.ca.file("apiserver-client.key"),
		"--bind-address=" + s.ip(), "--advertise-address=" + s.ip(), "--secure-port=" + port(s.Ports["apiserver"]),
		"--tls-cert-file=" + s.ca.file("server.crt"), "--tls-private-key-file=" + s.ca.file("server.key"),
		"--client-ca-file=" + s.ca.file("ca.crt"),
		"--requestheader-client-ca-file=" + s.ca.file("ca.crt"), "--requestheader-allowed-names=" + frontProxy,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + s.ca.file("front-proxy.crt"), "--proxy-client-key-file=" + s.ca.file("front-proxy.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + s.ca.file("sa.key"), "--service-account-signing-key-file=" + s.ca.file("sa.key"),
		"--authorization-mode=RBAC", "--service-cluster-ip-range=" + serviceRange, "--allow-privileged",
		// Endpoints cannot hold loopback addresses, so the kubernetes service gets none.
		"--endpoint-reconciler-type=none",
		"--kubelet-client-certificate=" + s.ca.file("apiserver-client.crt"),
		"--kubelet-client-key=" + s.ca.file("apiserver-client.key"),
		"--kubelet-certificate-authority=" + s.ca.file("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
	}
}

func (s *supervisor) controllerArgs() []string {
	config := s.ca.file("controller-manager.kubeconfig")
	return append(s.serving("controller-manager"),
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config,
		"--leader-elect=false", "--kube-api-qps=200", "--kube-api-burst=400", "--use-service-account-credentials",
		"--service-account-private-key-file="+s.ca.file("sa.key"), "--root-ca-file="+s.ca.file("ca.crt"),
		"--cluster-signing-cert-file="+s.ca.file("ca.crt"), "--cluster-signing-key-file="+s.ca.file("ca.key"),
		// Endpoints cannot hold loopback addresses: the node writes names into the pods' hosts files instead.
		"--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller",
		// A new node's taint is lifted within a second.
		"--node-monitor-period=1s",
	)
}

func (s *supervisor) schedulerArgs() []string {
	config := s.ca.file("scheduler.kubeconfig")
	return append(s.serving("scheduler"),
		"--kubeconfig="+config, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config,
		"--leader-elect=false", "--kube-api-qps=200", "--kube-api-burst=400")
}

func (s *supervisor) serving(name string) []string {
	return []string{
		"--bind-address=" + s.ip(), "--secure-port=" + port(s.Ports[name]),
		"--tls-cert-file=" + s.ca.file("server.crt"), "--tls-private-key-file=" + s.ca.file("server.key"),
	}
}
