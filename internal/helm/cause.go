package helm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/kube"
)

// cause is a thing outside a release that an action has failed of. When it changes, the action is worth another try, even if
// none is left.
type cause struct {
	// says what has to happen: `Namespace/x exists`.
	says string
	// changed asks the cluster whether it has.
	changed func(context.Context, *kube.Cluster, client.Reader) (bool, error)
}

// causeOf finds the cause in the errors of an action; nil when none of them tells of one.
func causeOf(ctx context.Context, errs []error, reader client.Reader) *cause {
	for _, err := range errs {
		var kind *meta.NoKindMatchError
		if errors.As(err, &kind) && len(kind.SearchedVersions) > 0 {
			return missingKind(kind.GroupKind.WithVersion(kind.SearchedVersions[0]))
		}
		var answer apierrors.APIStatus
		if !errors.As(err, &answer) {
			continue
		}
		status := answer.Status()
		switch {
		case apierrors.IsNotFound(err) && status.Details != nil && status.Details.Kind == "namespaces":
			return missingNamespace(status.Details.Name)
		case apierrors.IsForbidden(err) && exceeded.MatchString(status.Message):
			return fullQuota(ctx, reader, quotaNamespace(err))
		}
	}
	return nil
}

func missingKind(gvk schema.GroupVersionKind) *cause {
	return &cause{
		says: fmt.Sprintf("the cluster knows the kind %s of %s", gvk.Kind, gvk.GroupVersion()),
		changed: func(_ context.Context, cluster *kube.Cluster, _ client.Reader) (bool, error) {
			_, err := cluster.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if meta.IsNoMatchError(err) {
				return false, nil
			}
			return err == nil, err
		},
	}
}

func missingNamespace(name string) *cause {
	return &cause{
		says: fmt.Sprintf("Namespace/%s exists", name),
		changed: func(ctx context.Context, _ *kube.Cluster, reader client.Reader) (bool, error) {
			namespace := &metav1.PartialObjectMetadata{}
			namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
			err := reader.Get(ctx, types.NamespacedName{Name: name}, namespace)
			return err == nil && namespace.DeletionTimestamp == nil, client.IgnoreNotFound(err)
		},
	}
}

// exceeded is how the API server says that a quota has no room: it has no other word for it.
var exceeded = regexp.MustCompile(`exceeded quota: `)

// inNamespace is how an error of our client names an object: `Kind/namespace/name: ...`.
var inNamespace = regexp.MustCompile(`\b[A-Z]\w*/([a-z0-9-]+)/[a-z0-9.-]+: `)

func quotaNamespace(err error) string {
	if match := inNamespace.FindStringSubmatch(err.Error()); match != nil {
		return match[1]
	}
	return ""
}

// fullQuota is a quota that has no room. That less is in use is no change by itself: a failed action and its undoing make it so.
func fullQuota(ctx context.Context, reader client.Reader, namespace string) *cause {
	before, err := quotas(ctx, reader, namespace)
	if namespace == "" || err != nil {
		return nil // nothing to compare with
	}
	return &cause{
		says: fmt.Sprintf("a ResourceQuota of the namespace %s changes", namespace),
		changed: func(ctx context.Context, _ *kube.Cluster, reader client.Reader) (bool, error) {
			now, err := quotas(ctx, reader, namespace)
			return err == nil && now != before, err
		},
	}
}

// quotas identifies what the quotas of a namespace allow.
func quotas(ctx context.Context, reader client.Reader, namespace string) (string, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ResourceQuotaList"))
	if err := reader.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return "", err
	}
	var allow []string
	for _, quota := range list.Items {
		allow = append(allow, fmt.Sprint(quota.GetUID(), quota.Object["spec"]))
	}
	slices.Sort(allow)
	return strings.Join(allow, "\n"), nil
}

// isUnanswered says that a request got no answer, or that of an API server which cannot answer just now: because of its own
// trouble, or because a webhook that it has to ask is not there. What is unanswered says nothing about the release.
func isUnanswered(err error) bool {
	var answer apierrors.APIStatus
	if errors.As(err, &answer) {
		switch answer.Status().Code {
		case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	var request *url.Error
	return errors.As(err, &request)
}
