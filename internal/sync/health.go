package sync

import (
	"context"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/object"
	"github.com/cleat-dev/cleat/internal/reconcile"
)

// health waits, without holding a worker, until everything asked for is healthy.
func (r *Reconciler) health(ctx context.Context, a *attempt) error {
	if a.wait == nil {
		if err := r.beginWait(ctx, a); err != nil {
			return err
		}
	}
	v := r.waits.judge(a.wait, r.lookOf(a.key))
	if len(a.wait.targets) == 0 {
		r.rest(a, v)
		return nil
	}
	a.checked = true
	now := time.Now()
	if err := v.fault(now.After(a.wait.deadline), a.ks.GetTimeout()); err != nil {
		r.waits.end(a.wait)
		return err
	}
	if v.healthy() {
		r.rest(a, v)
		return nil
	}
	if quiet := a.wait.since.Add(r.ProgressAfter).Sub(now); quiet > 0 {
		return &reconcile.Waiting{After: quiet, Quiet: true}
	}
	return &reconcile.Waiting{After: a.wait.deadline.Sub(now) + time.Millisecond}
}

// beginWait has everything observed that the attempt has to wait for.
func (r *Reconciler) beginWait(ctx context.Context, a *attempt) error {
	targets, foreign := a.targets()
	if err := r.mayWatch(ctx, a, foreign); err != nil {
		a.cluster.Observer.Pin(a.key, nil)
		return err
	}
	a.cluster.Observer.Pin(a.key, foreign)
	a.wait = a.newWait(targets)
	r.waits.put(a.key, a.wait) // before looking: what changes from here on wakes us
	return nil
}

// mayWatch says whether whom the attempt acts as may read what it asks about and has not applied. The watches have the agent's
// rights, and how an expression judges an object can tell all that is in it (faults.md A20).
func (r *Reconciler) mayWatch(ctx context.Context, a *attempt, foreign []object.Ref) error {
	if _, named := r.account(a.ks); !named || len(foreign) == 0 {
		return nil
	}
	if err := r.act(ctx, a); err != nil {
		return api.AsFault(err, meta.HealthCheckFailedReason, kube.RetryOf(err))
	}
	for _, ref := range foreign {
		switch err := a.applier.MayRead(ctx, ref); {
		case apierrors.IsForbidden(err):
			return api.Faultf(meta.HealthCheckFailedReason, api.RetryInterval, "health check failed: %w", err)
		case err != nil:
			return api.Faultf(meta.HealthCheckFailedReason, api.RetryBackoff, "health check failed: %w", err)
		}
	}
	return nil
}

func (a *attempt) newWait(targets []object.Ref) *wait {
	now := time.Now()
	return &wait{
		asked: a.asked, artifact: *a.artifact,
		targets: targets, by: a.judge(), expiring: a.build.Expiring, leaving: a.leaving, pending: a.pending,
		inventory: a.inventory, digest: a.digest, changed: a.changed,
		began: a.began, since: now, deadline: now.Add(a.ks.GetTimeout()),
	}
}

// judge returns who judges the health of the objects; nil is kstatus, which is also for those whose health nobody asks for.
func (a *attempt) judge() *health.Judge {
	if !a.ks.Spec.Wait && len(a.ks.Spec.HealthChecks) == 0 {
		return nil
	}
	return a.exprs.judge
}

// rest ends the wait, and keeps it only to be woken when what was deleted has gone, so that the inventory can name it no more.
func (r *Reconciler) rest(a *attempt, v verdict) {
	if len(v.left) > 0 {
		r.waits.end(a.wait)
		return
	}
	r.waits.drop(a.key)
	if len(a.wait.pending) > 0 {
		r.Waker.Wake(a.key) // for another run, which deletes them
	}
}

// targets returns what the spec wants to be healthy before this Kustomization is Ready, and which of that is foreign: what is not
// among the objects applied carries no owner label of ours, and is observed by name. Neither the Kustomization itself nor what
// an annotation has kept from being applied is waited for.
func (a *attempt) targets() (targets, foreign []object.Ref) {
	self := object.Key{Group: api.OwnerGroup, Kind: kustomizev1.KustomizationKind, Namespace: a.key.Namespace, Name: a.key.Name}
	applied := make(map[object.Key]object.Ref, len(a.desired))
	for _, ref := range object.Subtract(a.desired, a.skipped) {
		applied[ref.Key()] = ref
	}
	wanted := object.Subtract(a.desired, a.skipped)
	if !a.ks.Spec.Wait {
		wanted = nil
		for _, check := range a.ks.Spec.HealthChecks {
			wanted = append(wanted, checkRef(check))
		}
	}
	for _, target := range wanted {
		ours, ok := applied[target.Key()]
		switch {
		case target.Key() == self:
			continue
		case ok:
			target = ours // at the version at which it is observed
		default:
			foreign = append(foreign, target)
		}
		targets = append(targets, target)
	}
	return targets, foreign
}

// expiring returns the Jobs that delete themselves when they are done: one that has gone has completed.
func expiring(objects []*unstructured.Unstructured) map[object.Key]bool {
	jobs := map[object.Key]bool{}
	for _, u := range objects {
		if _, set, _ := unstructured.NestedFieldNoCopy(u.Object, "spec", "ttlSecondsAfterFinished"); set && u.GetKind() == "Job" {
			jobs[object.RefOf(u).Key()] = true
		}
	}
	return jobs
}

// lookOf returns how to look at objects on the cluster of a Kustomization.
func (r *Reconciler) lookOf(owner types.NamespacedName) look {
	observer := r.Clusters.Of(owner).Observer
	return func(ref object.Ref, by *health.Judge) health.Result { return healthOf(observer, ref, by) }
}

// healthOf returns an object's health as last observed.
func healthOf(observer *kube.Observer, ref object.Ref, by *health.Judge) health.Result {
	is, state := observer.Health(ref, by)
	switch {
	case state.Found && apierrors.IsForbidden(state.Err) && is.Status != health.Current:
		// It is known from an answer to our own write, and without that right nothing more will ever be.
		return health.Result{Status: health.Unknown, Message: state.Err.Error()}
	case state.Found:
		return is
	case state.Gone():
		return health.Result{Status: health.NotFound}
	case state.Err != nil:
		return health.Result{Status: health.Unknown, Message: state.Err.Error()}
	default:
		return health.Result{Status: health.Unknown}
	}
}

func checkRef(check meta.NamespacedObjectKindReference) object.Ref {
	version := check.APIVersion
	if version == "" {
		version = "apps/v1"
	}
	gv, err := schema.ParseGroupVersion(version)
	if err != nil { // the schema of the API lets anything pass; an unknown kind is then never healthy, and says so
		gv = schema.GroupVersion{Version: version}
	}
	return object.Ref{Group: gv.Group, Version: gv.Version, Kind: check.Kind, Namespace: check.Namespace, Name: check.Name}
}
