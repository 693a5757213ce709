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
	// changed asks the cluster whether it has. It is asked with the agent's own rights: a tenant may not read such things.
	changed func(context.Context, *kube.Cluster) (bool, error)
	// news is the watch that tells when it is worth asking, and concerns says of which objects.
	news     news
	concerns func(name string) bool
}

// news are objects to watch, of one namespace or of one name, where these are not empty.
type news struct {
	resource        schema.GroupVersionResource
	namespace, name string
}

// causeOf finds the cause in the errors of an action; nil when none of them tells of one.
func causeOf(ctx context.Context, errs []error, cluster *kube.Cluster) *cause {
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
			namespace := quotaNamespace(err)
			before, err := quotas(ctx, cluster, namespace)
			if namespace == "" || err != nil {
				return nil // nothing to compare with
			}
			return fullQuota(namespace, before)
		}
	}
	return nil
}

// The causes, as messages say them.
var (
	saysNamespace = regexp.MustCompile(`^Namespace/(\S+) exists$`)
	saysKind      = regexp.MustCompile(`^the cluster knows the kind (\S+) of (\S+)$`)
	saysQuota     = regexp.MustCompile(`^a ResourceQuota of the namespace (\S+) changes$`)
	saysWhen      = regexp.MustCompile(`; it is tried again (?:[^;]*, and )?when ([^;]*)$`)
)

// causeIn finds the cause in a message of nextTry's, by which a process knows what an earlier one has found out; nil when it
// tells of none. What quotas allowed then it does not tell, so that their release has one more try.
func causeIn(message string) *cause {
	when := saysWhen.FindStringSubmatch(message)
	if when == nil {
		return nil
	}
	if of := saysNamespace.FindStringSubmatch(when[1]); of != nil {
		return missingNamespace(of[1])
	}
	if of := saysKind.FindStringSubmatch(when[1]); of != nil {
		return missingKind(schema.FromAPIVersionAndKind(of[2], of[1]))
	}
	if of := saysQuota.FindStringSubmatch(when[1]); of != nil {
		return fullQuota(of[1], "")
	}
	return nil
}

// nextTry is the end of a message about a failure: when it is tried again. Either may be empty.
func nextTry(regularly, cause string) string {
	switch {
	case regularly == "" && cause == "":
		return ""
	case cause == "":
		return "; it is tried again " + regularly
	case regularly == "":
		return "; it is tried again when " + cause
	}
	return "; it is tried again " + regularly + ", and when " + cause
}

// missingKind is a kind that is not served. Most come with a CustomResourceDefinition, which has the name of its group.
func missingKind(gvk schema.GroupVersionKind) *cause {
	return &cause{
		says: fmt.Sprintf("the cluster knows the kind %s of %s", gvk.Kind, gvk.GroupVersion()),
		changed: func(_ context.Context, cluster *kube.Cluster) (bool, error) {
			_, err := cluster.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if meta.IsNoMatchError(err) {
				return false, nil
			}
			return err == nil, err
		},
		news:     news{resource: schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}},
		concerns: func(name string) bool { return strings.HasSuffix(name, "."+gvk.Group) },
	}
}

func missingNamespace(name string) *cause {
	return &cause{
		says: fmt.Sprintf("Namespace/%s exists", name),
		changed: func(ctx context.Context, cluster *kube.Cluster) (bool, error) {
			user, err := cluster.User("")
			if err != nil {
				return false, err
			}
			namespace := &metav1.PartialObjectMetadata{}
			namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
			err = user.Client.Get(ctx, types.NamespacedName{Name: name}, namespace)
			return err == nil && namespace.DeletionTimestamp == nil, client.IgnoreNotFound(err)
		},
		news:     news{resource: corev1.SchemeGroupVersion.WithResource("namespaces"), name: name},
		concerns: func(string) bool { return true },
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
func fullQuota(namespace, before string) *cause {
	return &cause{
		says: fmt.Sprintf("a ResourceQuota of the namespace %s changes", namespace),
		changed: func(ctx context.Context, cluster *kube.Cluster) (bool, error) {
			now, err := quotas(ctx, cluster, namespace)
			return err == nil && now != before, err
		},
		news:     news{resource: corev1.SchemeGroupVersion.WithResource("resourcequotas"), namespace: namespace},
		concerns: func(string) bool { return true },
	}
}

// quotas identifies what the quotas of a namespace allow.
func quotas(ctx context.Context, cluster *kube.Cluster, namespace string) (string, error) {
	user, err := cluster.User("")
	if err != nil {
		return "", err
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ResourceQuotaList"))
	if err := user.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return "", err
	}
	allow := []string{namespace} // without any quota, it is still what was there
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
