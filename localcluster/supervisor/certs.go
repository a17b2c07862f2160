package supervisor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// frontProxy is the user under whose name the API server passes requests on to aggregated APIs.
const frontProxy = "front-proxy-client"

const validity = 10 * 365 * 24 * time.Hour

type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// openAuthority reads the cluster's CA and service-account key, or makes them: objects in etcd depend on both.
func openAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	if _, err := os.Stat(a.file("sa.key")); err != nil {
		if err := a.create(); err != nil {
			return nil, err
		}
	}
	certificate, err := os.ReadFile(a.file("ca.crt"))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(a.file("ca.key"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certificate)
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, err
	}
	block, _ = pem.Decode(key)
	a.key, err = x509.ParseECPrivateKey(block.Bytes)
	return a, err
}

func (a *authority) create() error {
	key, err := a.newKey("ca")
	if err != nil {
		return err
	}
	template := newTemplate("localcluster-ca", nil)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage |= x509.KeyUsageCertSign
	if err := a.sign("ca", template, template, key.Public(), key); err != nil {
		return err
	}
	_, err = a.newKey("sa") // last: it marks that all is there
	return err
}

func newTemplate(name string, groups []string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity), KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func (a *authority) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(a.file(name+".key"), "EC PRIVATE KEY", der)
}

func (a *authority) sign(name string, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) error {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return err
	}
	return writePEM(a.file(name+".crt"), "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// issue writes <name>.crt and <name>.key for a user, who may also serve under the hosts.
func (a *authority) issue(name, user string, groups, hosts []string) error {
	key, err := a.newKey(name)
	if err != nil {
		return err
	}
	template := newTemplate(user, groups)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.sign(name, template, a.cert, key.Public(), a.key)
}

// issueAll writes this start's certificates: the server's carries addresses that may have changed.
func (a *authority) issueAll(ip string) error {
	admins := []string{"system:masters"}
	names := []string{
		ip, "127.0.0.1", firstServiceIP, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local",
	}
	for _, certificate := range []struct {
		name, user    string
		groups, hosts []string
	}{
		{"server", "localcluster", nil, names},
		{"apiserver-client", "kube-apiserver", nil, nil},
		{"front-proxy", frontProxy, nil, nil},
		{"admin", "admin", admins, nil},
		{"node", "localcluster-node", admins, nil},
		{"controller-manager", "system:kube-controller-manager", nil, nil},
		{"scheduler", "system:kube-scheduler", nil, nil},
	} {
		if err := a.issue(certificate.name, certificate.user, certificate.groups, certificate.hosts); err != nil {
			return err
		}
	}
	return nil
}

// writeKubeconfig embeds the certificates, so that the file can be copied elsewhere.
func (a *authority) writeKubeconfig(path, name, server string) error {
	files := map[string][]byte{}
	for _, file := range []string{"ca.crt", name + ".crt", name + ".key"} {
		content, err := os.ReadFile(a.file(file))
		if err != nil {
			return err
		}
		files[file] = content
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["localcluster"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: files["ca.crt"]}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: files[name+".crt"], ClientKeyData: files[name+".key"],
	}
	config.Contexts["localcluster"] = &clientcmdapi.Context{Cluster: "localcluster", AuthInfo: name}
	config.CurrentContext = "localcluster"
	return clientcmd.WriteToFile(*config, path)
}
