package kube

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// kubeconfigOf returns a kubeconfig whose cluster and user are these.
func kubeconfigOf(cluster, user string) string {
	return `
apiVersion: v1
kind: Config
current-context: here
contexts:
- {name: here, context: {cluster: c, user: u}}
- {name: elsewhere, context: {cluster: unused, user: unused}}
clusters:
- {name: c, cluster: ` + cluster + `}
- {name: unused, cluster: {server: "http://unused", insecure-skip-tls-verify: true}}
users:
- {name: u, user: ` + user + `}
- {name: unused, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: "false"}}}`
}

const (
	somewhere = `{server: "https://api.example.com:6443"}`
	someone   = `{token: t0ken}`
)

// A kubeconfig is somebody else's text: it gets an address and credentials, and nothing of the agent's machine.
func TestA19_ParseKubeconfigRefuses(t *testing.T) {
	for name, test := range map[string]struct{ cluster, user, says string }{
		"exec":                  {somewhere, `{exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [/tmp/x]}}`, "--insecure-kubeconfig-exec"},
		"auth-provider":         {somewhere, `{auth-provider: {name: gcp}}`, "auth-provider"},
		"tokenFile":             {somewhere, `{tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token}`, "tokenFile"},
		"client-certificate":    {somewhere, `{client-certificate: /etc/x, client-key: /etc/y}`, "client-key is a file"},
		"certificate-authority": {`{server: "https://a", certificate-authority: /etc/passwd}`, someone, "certificate-authority-data"},
		"insecure":              {`{server: "https://a", insecure-skip-tls-verify: true}`, someone, "--insecure-kubeconfig-tls"},
		"http":                  {`{server: "http://a"}`, someone, "--insecure-kubeconfig-tls"},
		"proxy":                 {`{server: "https://a", proxy-url: "http://evil"}`, someone, "proxy-url"},
		"no server":             {`{}`, someone, "server is not a URL"},
		"other scheme":          {`{server: "unix://a/b"}`, someone, "https://"},
		"credentials in server": {`{server: "https://ada:secret@a"}`, someone, "server holds a user"},
		"bad certificate":       {`{server: "https://a", certificate-authority-data: bm9uZQ==}`, someone, "cannot be used"},
		// A22
		"as":        {somewhere, `{token: t0ken, as: admin}`, "impersonation"},
		"as-groups": {somewhere, `{token: t0ken, as-groups: ["system:masters"]}`, "impersonation"},
		"as-uid":    {somewhere, `{token: t0ken, as-uid: "1"}`, "impersonation"},
		"as-extra":  {somewhere, `{token: t0ken, as-user-extra: {a: [b]}}`, "impersonation"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseKubeconfig([]byte(kubeconfigOf(test.cluster, test.user)), KubeconfigPolicy{})
			if !errors.Is(err, ErrKubeconfig) || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("error = %v, want one that says %q", err, test.says)
			}
			if text := err.Error(); strings.Contains(text, "t0ken") || strings.Contains(text, "secret") {
				t.Errorf("a credential is repeated: %s", text)
			}
		})
	}
	for name, text := range map[string]string{
		"not YAML": "t0ken: [", "nothing": "", "no context": "apiVersion: v1\nkind: Config\n",
		"no cluster": "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n",
	} {
		if _, err := ParseKubeconfig([]byte(text), KubeconfigPolicy{Exec: true, TLS: true}); !errors.Is(err, ErrKubeconfig) || strings.Contains(err.Error(), "t0ken") {
			t.Errorf("%s: error = %v", name, err)
		}
	}
}

// What the flags allow is allowed, and entries that are not used do not matter.
func TestParseKubeconfig(t *testing.T) {
	config, err := ParseKubeconfig([]byte(kubeconfigOf(somewhere, `{token: t0ken, username: ada, password: secret}`)), KubeconfigPolicy{})
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://api.example.com:6443" || config.BearerToken != "t0ken" || config.Username != "ada" || config.Password != "secret" {
		t.Errorf("config = %v", config)
	}
	config, err = ParseKubeconfig([]byte(kubeconfigOf(`{server: "https://a", insecure-skip-tls-verify: true}`,
		`{exec: {apiVersion: client.authentication.k8s.io/v1, command: get-token, interactiveMode: Always}}`)), KubeconfigPolicy{Exec: true, TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	if !config.Insecure || config.ExecProvider == nil || config.ExecProvider.Command != "get-token" || config.ExecProvider.InteractiveMode != "Never" {
		t.Errorf("with flags: %v, exec %v", config, config.ExecProvider)
	}
}

// Whatever a kubeconfig holds, what comes out of it knows no file, proxy or impersonation.
func FuzzParseKubeconfig(f *testing.F) {
	f.Add(kubeconfigOf(somewhere, someone))
	f.Add(kubeconfigOf(`{server: "https://a", proxy-url: "http://b", certificate-authority: /c}`, `{tokenFile: /d, as: root}`))
	f.Fuzz(func(t *testing.T, text string) {
		config, err := ParseKubeconfig([]byte(text), KubeconfigPolicy{})
		if err != nil {
			return
		}
		files := config.CAFile + config.CertFile + config.KeyFile + config.BearerTokenFile
		if files != "" || config.Insecure || config.Proxy != nil || config.ExecProvider != nil || config.AuthProvider != nil || config.Impersonate.UserName != "" {
			t.Fatalf("%q is taken for %v", text, config)
		}
		if _, err := rest.TLSConfigFor(config); err != nil {
			t.Fatal(err)
		}
	})
}
