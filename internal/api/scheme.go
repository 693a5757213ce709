package api

import (
	"fmt"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	notificationv1beta3 "github.com/fluxcd/notification-controller/api/v1beta3"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
)

// The kinds that this agent reconciles.
var (
	GitRepositoryKind    = sourcev1.GroupVersion.WithKind(sourcev1.GitRepositoryKind)
	OCIRepositoryKind    = sourcev1.GroupVersion.WithKind(sourcev1.OCIRepositoryKind)
	HelmRepositoryKind   = sourcev1.GroupVersion.WithKind(sourcev1.HelmRepositoryKind)
	HelmChartKind        = sourcev1.GroupVersion.WithKind(sourcev1.HelmChartKind)
	BucketKind           = sourcev1.GroupVersion.WithKind(sourcev1.BucketKind)
	ExternalArtifactKind = sourcev1.GroupVersion.WithKind(sourcev1.ExternalArtifactKind)
	KustomizationKind    = kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind)
	HelmReleaseKind      = helmv2.GroupVersion.WithKind(helmv2.HelmReleaseKind)
	ReceiverKind         = notificationv1.GroupVersion.WithKind(notificationv1.ReceiverKind)
)

// The kinds that are read when there is something to tell, and have no status to reconcile.
var (
	AlertKind    = notificationv1beta3.GroupVersion.WithKind(notificationv1beta3.AlertKind)
	ProviderKind = notificationv1beta3.GroupVersion.WithKind(notificationv1beta3.ProviderKind)
)

// NewScheme returns a scheme that knows Kubernetes' own kinds, CustomResourceDefinitions and the Flux kinds served here.
func NewScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(apiextensionsv1.AddToScheme(s))
	utilruntime.Must(sourcev1.AddToScheme(s))
	utilruntime.Must(kustomizev1.AddToScheme(s))
	utilruntime.Must(helmv2.AddToScheme(s))
	utilruntime.Must(notificationv1.AddToScheme(s))
	utilruntime.Must(notificationv1beta3.AddToScheme(s))
	return s
}

// Decode converts one object of a kind of ours from the form it is cached in to its Go type.
//
// Objects are cached undecoded so that a field which no Go type can hold (`interval: 9999999h` passes the schema but no
// time.Duration) fails the one object that carries it, and never the list of its kind (CVE-2022-39272, faults.md A26).
func Decode(u *unstructured.Unstructured, into any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into); err != nil {
		return fmt.Errorf("decoding %s %s/%s: %w", u.GetKind(), u.GetNamespace(), u.GetName(), err)
	}
	return nil
}

// Undecoded returns an empty object of the given kind in the form that the cache keeps.
func Undecoded(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	return u
}
