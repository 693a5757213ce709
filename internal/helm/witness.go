package helm

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	helmkube "helm.sh/helm/v3/pkg/kube"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cleat-dev/cleat/internal/helm/client"
)

// witness remembers the errors of a Client. Helm's SDK makes text of some of them, and from text it cannot be told whether the
// release is to blame.
type witness struct {
	*client.Client

	mu   sync.Mutex
	errs []error
}

var (
	_ helmkube.Interface                    = (*witness)(nil)
	_ helmkube.InterfaceExt                 = (*witness)(nil)
	_ helmkube.InterfaceThreeWayMerge       = (*witness)(nil)
	_ helmkube.InterfaceDeletionPropagation = (*witness)(nil)
)

// seen returns the errors so far.
func (w *witness) seen() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.errs)
}

// explain adds to an error of the SDK what it does not say of why.
func (w *witness) explain(err error) error {
	for _, seen := range w.seen() {
		if !strings.Contains(err.Error(), seen.Error()) {
			err = fmt.Errorf("%w: %w", err, seen)
		}
	}
	return err
}

func (w *witness) note(err error) error {
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.errs = append(w.errs, err)
	}
	return err
}

func (w *witness) Create(resources helmkube.ResourceList) (*helmkube.Result, error) {
	result, err := w.Client.Create(resources)
	return result, w.note(err)
}

func (w *witness) Update(original, target helmkube.ResourceList, force bool) (*helmkube.Result, error) {
	result, err := w.Client.Update(original, target, force)
	return result, w.note(err)
}

func (w *witness) UpdateThreeWayMerge(original, target helmkube.ResourceList, force bool) (*helmkube.Result, error) {
	result, err := w.Client.UpdateThreeWayMerge(original, target, force)
	return result, w.note(err)
}

func (w *witness) Build(reader io.Reader, validate bool) (helmkube.ResourceList, error) {
	list, err := w.Client.Build(reader, validate)
	return list, w.note(err)
}

func (w *witness) Wait(resources helmkube.ResourceList, timeout time.Duration) error {
	return w.note(w.Client.Wait(resources, timeout))
}

func (w *witness) WaitWithJobs(resources helmkube.ResourceList, timeout time.Duration) error {
	return w.note(w.Client.WaitWithJobs(resources, timeout))
}

func (w *witness) WaitForDelete(resources helmkube.ResourceList, timeout time.Duration) error {
	return w.note(w.Client.WaitForDelete(resources, timeout))
}

func (w *witness) WatchUntilReady(resources helmkube.ResourceList, timeout time.Duration) error {
	return w.note(w.Client.WatchUntilReady(resources, timeout))
}

func (w *witness) Delete(resources helmkube.ResourceList) (*helmkube.Result, []error) {
	result, errs := w.Client.Delete(resources)
	_ = w.note(errors.Join(errs...))
	return result, errs
}

func (w *witness) DeleteWithPropagationPolicy(resources helmkube.ResourceList, policy metav1.DeletionPropagation) (*helmkube.Result, []error) {
	result, errs := w.Client.DeleteWithPropagationPolicy(resources, policy)
	_ = w.note(errors.Join(errs...))
	return result, errs
}
