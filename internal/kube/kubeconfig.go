package kube

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ErrKubeconfig means: the cluster cannot be reached as it is described there, and will not be until that is changed.
var ErrKubeconfig = errors.New("unusable kubeconfig")

// KubeconfigPolicy says what a kubeconfig that somebody else wrote may ask for, beyond an address and credentials.
type KubeconfigPolicy struct {
	// Exec allows a command that the agent runs to get credentials (--insecure-kubeconfig-exec).
	Exec bool
	// TLS allows a server that is not verified, or not even encrypted (--insecure-kubeconfig-tls).
	TLS bool
}

// ParseKubeconfig returns how to reach the current context of a kubeconfig. What it writes into the configuration is a
// list of what is allowed: a kubeconfig is a program of sorts, and whoever may write a Secret must not have the agent run
// commands, read its files, go through a proxy or trust anybody (faults.md A19). No error repeats a credential.
func ParseKubeconfig(data []byte, policy KubeconfigPolicy) (*rest.Config, error) {
	kubeconfig, err := clientcmd.Load(data)
	if err != nil {
		return nil, fmt.Errorf("%w: it is not a kubeconfig in YAML", ErrKubeconfig) // the parser's error quotes what it could not read
	}
	cluster, user, err := current(kubeconfig)
	if err != nil {
		return nil, err
	}
	if refused := slices.Concat(refusedOfCluster(cluster, policy), refusedOfUser(user, policy)); len(refused) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrKubeconfig, strings.Join(refused, "; "))
	}
	if err := checkServer(cluster.Server, policy); err != nil {
		return nil, err
	}
	config := &rest.Config{
		Host: cluster.Server,
		TLSClientConfig: rest.TLSClientConfig{
			ServerName: cluster.TLSServerName, Insecure: cluster.InsecureSkipTLSVerify, CAData: cluster.CertificateAuthorityData,
			CertData: user.ClientCertificateData, KeyData: user.ClientKeyData,
		},
		Username: user.Username, Password: user.Password, BearerToken: user.Token,
		DisableCompression: cluster.DisableCompression,
	}
	if user.Exec != nil {
		config.ExecProvider = user.Exec.DeepCopy()
		config.ExecProvider.InteractiveMode = clientcmdapi.NeverExecInteractiveMode
	}
	if _, err := rest.TLSConfigFor(config); err != nil {
		return nil, fmt.Errorf("%w: its certificates or keys cannot be used", ErrKubeconfig)
	}
	return config, nil
}

// current returns the entries that the current context names. Others are not used, so it does not matter what they hold.
func current(kubeconfig *clientcmdapi.Config) (*clientcmdapi.Cluster, *clientcmdapi.AuthInfo, error) {
	at := kubeconfig.Contexts[kubeconfig.CurrentContext]
	if at == nil {
		return nil, nil, fmt.Errorf("%w: its current-context names no context", ErrKubeconfig)
	}
	cluster := kubeconfig.Clusters[at.Cluster]
	if cluster == nil {
		return nil, nil, fmt.Errorf("%w: the current context names no cluster", ErrKubeconfig)
	}
	user := kubeconfig.AuthInfos[at.AuthInfo]
	if user == nil {
		return nil, nil, fmt.Errorf("%w: the current context names no user", ErrKubeconfig)
	}
	return cluster, user, nil
}

func refusedOfCluster(c *clientcmdapi.Cluster, policy KubeconfigPolicy) []string {
	return reasons([]rule{
		{c.CertificateAuthority != "", "certificate-authority is a file of the agent's; put the certificate into certificate-authority-data"},
		{c.ProxyURL != "", "proxy-url is not supported"},
		{c.InsecureSkipTLSVerify && !policy.TLS, "insecure-skip-tls-verify is only allowed with the agent's flag --insecure-kubeconfig-tls"},
	})
}

func refusedOfUser(u *clientcmdapi.AuthInfo, policy KubeconfigPolicy) []string {
	impersonates := u.Impersonate != "" || u.ImpersonateUID != "" || len(u.ImpersonateGroups) > 0 || len(u.ImpersonateUserExtra) > 0
	return reasons([]rule{
		{u.AuthProvider != nil, "auth-provider is not supported"},
		{u.ClientCertificate != "", "client-certificate is a file of the agent's; put the certificate into client-certificate-data"},
		{u.ClientKey != "", "client-key is a file of the agent's; put the key into client-key-data"},
		{u.TokenFile != "", "tokenFile is a file of the agent's; put the token into token"},
		{u.Exec != nil && !policy.Exec, "exec is only allowed with the agent's flag --insecure-kubeconfig-exec"},
		{impersonates, "impersonation (as, as-uid, as-groups, as-user-extra) is not allowed; use spec.serviceAccountName"},
	})
}

// rule is one thing that a kubeconfig must not ask for, and what is said when it does.
type rule struct {
	broken bool
	why    string
}

func reasons(rules []rule) []string {
	var out []string
	for _, r := range rules {
		if r.broken {
			out = append(out, r.why)
		}
	}
	return out
}

// checkServer says whether credentials may be sent to that address. An empty one would be the agent's own machine.
func checkServer(server string, policy KubeconfigPolicy) error {
	u, err := url.Parse(server)
	switch {
	case err != nil || u.Host == "":
		return fmt.Errorf("%w: server is not a URL", ErrKubeconfig)
	case u.User != nil:
		return fmt.Errorf("%w: server holds a user or password; use the user's entry", ErrKubeconfig)
	case u.Scheme == "https", u.Scheme == "http" && policy.TLS:
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("%w: server begins with http://, which is only allowed with the agent's flag --insecure-kubeconfig-tls", ErrKubeconfig)
	default:
		return fmt.Errorf("%w: server must begin with https://", ErrKubeconfig)
	}
}
