package storage

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// Secrets are those of one namespace, on the API server itself: a cache would be behind what an operation has just written.
// Errors are the API server's, as apierrors knows them.
type Secrets interface {
	// List returns up to limit of the Secrets that have the labels, and whether there are more.
	List(ctx context.Context, labels map[string]string, limit int) (secrets []corev1.Secret, more bool, err error)
	// Headers returns the metadata of all the Secrets that have the labels.
	Headers(ctx context.Context, labels map[string]string) ([]metav1.ObjectMeta, error)
	Get(ctx context.Context, name string) (*corev1.Secret, error)
	// Create and Update leave in the Secret what the API server made of it.
	Create(ctx context.Context, secret *corev1.Secret) error
	Update(ctx context.Context, secret *corev1.Secret) error
	// Delete deletes the Secret that the metadata is of: its UID and resourceVersion are preconditions.
	Delete(ctx context.Context, of metav1.ObjectMeta) error
}

// callTimeout bounds each request. A release of a megabyte has been seen to take seconds.
const callTimeout = 30 * time.Second

// headersPage is how many Secrets' metadata one request asks for.
const headersPage = 500

// Namespace is the Secrets of one namespace by way of a client whose scheme knows core/v1 and which does not cache.
type Namespace struct {
	Client client.Client
	Name   string
}

var _ Secrets = Namespace{}

// List asks for one page.
func (n Namespace) List(ctx context.Context, labels map[string]string, limit int) ([]corev1.Secret, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var list corev1.SecretList
	err := n.Client.List(ctx, &list, client.InNamespace(n.Name), client.MatchingLabels(labels), client.Limit(limit))
	return list.Items, list.Continue != "", err
}

// Headers asks for all pages, of metadata only.
func (n Namespace) Headers(ctx context.Context, labels map[string]string) ([]metav1.ObjectMeta, error) {
	var headers []metav1.ObjectMeta
	for next := ""; ; {
		page, err := n.headers(ctx, labels, next)
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			headers = append(headers, item.ObjectMeta)
		}
		if next = page.Continue; next == "" {
			return headers, nil
		}
	}
}

func (n Namespace) headers(ctx context.Context, labels map[string]string, next string) (*metav1.PartialObjectMetadataList, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page := &metav1.PartialObjectMetadataList{}
	page.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err := n.Client.List(ctx, page, client.InNamespace(n.Name), client.MatchingLabels(labels), client.Limit(headersPage), client.Continue(next))
	return page, err
}

// Get asks for one Secret.
func (n Namespace) Get(ctx context.Context, name string) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret := &corev1.Secret{}
	err := n.Client.Get(ctx, client.ObjectKey{Namespace: n.Name, Name: name}, secret)
	return secret, err
}

// Create writes as Flux's field manager.
func (n Namespace) Create(ctx context.Context, secret *corev1.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret.Namespace = n.Name
	return n.Client.Create(ctx, secret, client.FieldOwner(api.HelmManager))
}

// Update writes as Flux's field manager.
func (n Namespace) Update(ctx context.Context, secret *corev1.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret.Namespace = n.Name
	return n.Client.Update(ctx, secret, client.FieldOwner(api.HelmManager))
}

// Delete is refused as a conflict when the Secret is no longer as it was.
func (n Namespace) Delete(ctx context.Context, of metav1.ObjectMeta) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: n.Name, Name: of.Name}}
	return n.Client.Delete(ctx, secret, client.Preconditions{UID: &of.UID, ResourceVersion: &of.ResourceVersion})
}
