package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// The accounts of the cluster's own parts, and of the test.
var accounts = []struct{ name, user, groups string }{
	{"admin", "admin", "system:masters"},
	{"kubelet", "system:node:" + nodeName, "system:nodes"},
	{"kube-controller-manager", "system:kube-controller-manager", ""},
	{"kube-scheduler", "system:kube-scheduler", ""},
}

// pki is what proves who is who.
type pki struct {
	// CA is the certificate of the API server's issuer.
	CA []byte
	// Tokens are by account.
	Tokens map[string]string
}

// The files of a pki.
const (
	caFile      = "ca.pem"
	servingCert = "serving.pem"
	servingKey  = "serving-key.pem"
	// accountKey signs the tokens of service accounts.
	accountKey = "service-accounts.pem"
	tokensFile = "tokens.csv"
)

// newPKI writes its files into a directory, with a kubeconfig for each account.
func newPKI(file func(string) string) (*pki, error) {
	p := &pki{Tokens: map[string]string{}}
	if err := p.issue(file); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	pemKey := encodePEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	if err := os.WriteFile(file(accountKey), pemKey, 0o600); err != nil {
		return nil, err
	}
	var tokens strings.Builder
	for _, a := range accounts {
		token := make([]byte, 16)
		_, _ = rand.Read(token)
		p.Tokens[a.name] = hex.EncodeToString(token)
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", p.Tokens[a.name], a.user, a.name, a.groups)
		if err := os.WriteFile(file(a.name+".kubeconfig"), p.Kubeconfig(p.Tokens[a.name]), 0o600); err != nil {
			return nil, err
		}
	}
	return p, os.WriteFile(file(tokensFile), []byte(tokens.String()), 0o600)
}

// Kubeconfig is one for the bearer of a token.
func (p *pki) Kubeconfig(token string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"bed",
"clusters":[{"name":"bed","cluster":{"server":%q,"certificate-authority-data":%q}}],
"users":[{"name":"bearer","user":{"token":%q}}],
"contexts":[{"name":"bed","context":{"cluster":"bed","user":"bearer"}}]}
`, apiServer, base64.StdEncoding.EncodeToString(p.CA), token)
}

func (p *pki) issue(file func(string) string) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := certificate("ebpf-evict.test")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serving := certificate("kube-apiserver")
	serving.KeyUsage, serving.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	serving.DNSNames = []string{"localhost", "kubernetes.default.svc"}
	serving.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(nodeIP)}
	der, err := x509.CreateCertificate(rand.Reader, serving, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	p.CA = encodePEM("CERTIFICATE", caDER)
	for name, data := range map[string][]byte{
		caFile: p.CA, servingCert: encodePEM("CERTIFICATE", der), servingKey: encodePEM("EC PRIVATE KEY", keyDER),
	} {
		if err := os.WriteFile(file(name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func certificate(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
