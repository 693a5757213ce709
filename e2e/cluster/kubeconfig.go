package main

import (
	"os"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// writeKubeconfigs writes one file for each client, and the administrator's a
// second time as DIR/kubeconfig, the one for people and tests.
func writeKubeconfigs(dir layout, server string) error {
	for _, id := range identities {
		if err := writeKubeconfig(dir, server, id.file, dir.clientConfig(id.file)); err != nil {
			return err
		}
	}
	return writeKubeconfig(dir, server, "admin", dir.kubeconfig())
}

// writeKubeconfig puts keys and certificates inside the file, so that it can be
// copied elsewhere or into a Secret as it is.
func writeKubeconfig(dir layout, server, user, path string) error {
	ca, err := os.ReadFile(dir.pki("ca.crt"))
	if err != nil {
		return err
	}
	cert, err := os.ReadFile(dir.pki(user + ".crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(dir.pki(user + ".key"))
	if err != nil {
		return err
	}
	data, err := clientcmd.Write(api.Config{
		Clusters:       map[string]*api.Cluster{"devcluster": {Server: server, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*api.AuthInfo{user: {ClientCertificateData: cert, ClientKeyData: key}},
		Contexts:       map[string]*api.Context{"devcluster": {Cluster: "devcluster", AuthInfo: user}},
		CurrentContext: "devcluster",
	})
	if err != nil {
		return err
	}
	return writeFile(path, data)
}
