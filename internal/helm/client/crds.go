package client

import (
	"fmt"
	"sync"
	"time"

	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
)

// CRDPolicy says what becomes of the CustomResourceDefinitions of a chart, in the words of spec.install.crds.
type CRDPolicy string

const (
	// SkipCRDs leaves them out.
	SkipCRDs CRDPolicy = "Skip"
	// CreateCRDs makes those that are not there, and changes none.
	CreateCRDs CRDPolicy = "Create"
	// CreateReplaceCRDs makes and changes them.
	CreateReplaceCRDs CRDPolicy = "CreateReplace"
)

// ApplyCRDs brings the definitions among objects, which are what a chart's crds/ holds, into the cluster, labelled as the
// HelmRelease's, and returns when their kinds can be used. Other kinds that are found there are left alone (faults.md F20).
// Nothing is ever deleted.
func (c *Client) ApplyCRDs(objects []*unstructured.Unstructured, policy CRDPolicy, timeout time.Duration) (kube.ChangeSet, error) {
	var crds []*unstructured.Unstructured
	for _, u := range objects {
		if !utils.IsCRD(u) {
			c.options.Log("leaving out %s: only CustomResourceDefinitions are taken from crds/", object.RefOf(u))
			continue // It is no part of the release either, so that nobody would ever delete it.
		}
		switch policy {
		case SkipCRDs:
			continue
		case CreateCRDs:
			live, err := c.read(object.RefOf(u))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", object.RefOf(u), err)
			}
			if live != nil {
				continue // It may be older or newer than this chart's, and others may need it as it is.
			}
		case CreateReplaceCRDs:
		default:
			return nil, fmt.Errorf("unknown policy for CRDs %q", policy)
		}
		u = u.DeepCopy()
		u.SetNamespace("")
		kube.HelmReleases().Labels.Set(u, c.options.Owner)
		crds = append(crds, u)
	}
	if len(crds) == 0 {
		return nil, c.ctx.Err()
	}
	applier, err := c.cluster.Applier(c.user.Name)
	if err != nil {
		return nil, err
	}
	resumed := func() {}
	defer func() { resumed() }()
	changes, err := applier.Apply(c.ctx, c.options.Owner, crds, kube.ApplyOptions{
		WaitTimeout: timeout, Blocks: sync.OnceFunc(func() { resumed = c.options.Parked() }),
	})
	if ended := c.ctx.Err(); ended != nil {
		return changes, ended
	}
	return changes, err
}
