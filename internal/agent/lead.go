package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leases are the names that Flux's controllers hold for the kinds we serve. Holding them keeps a Flux that is still
// running, or that comes back, from acting on the same objects.
var leases = []string{
	"source-controller-leader-election", "kustomize-controller-leader-election",
	"helm-controller-leader-election", "notification-controller-leader-election",
}

// errLeadershipLost ends the agent: what another leader does from now on must not be mixed with what we would do.
var errLeadershipLost = errors.New("lost a leader lease")

// leaseNames returns the names for a shard. Shards of the same agent act side by side on different objects; the name of each
// is Flux's for the same selector.
func leaseNames(selector string) []string {
	if selector == "" {
		return leases
	}
	names := make([]string, len(leases))
	for i, name := range leases {
		names[i] = shardID(name, selector)
	}
	return names
}

// shardID is how Flux derives the name of a shard's lease from its label selector.
func shardID(name, selector string) string {
	return fmt.Sprintf("%s-%x", name, sha256.Sum256([]byte(selector)))[:len(name)+1+8]
}

// lead runs do while this process holds all leases, taken in order.
func lead(ctx context.Context, config *rest.Config, flags Flags, log *slog.Logger, do func(context.Context) error) error {
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("making the client for leader election: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("naming this process for leader election: %w", err)
	}
	identity := fmt.Sprintf("%s_%d_%d", host, os.Getpid(), time.Now().UnixNano())
	return leadWith(ctx, clients, identity, flags, leaseNames(flags.WatchSelector), log, do)
}

func leadWith(ctx context.Context, clients kubernetes.Interface, identity string, flags Flags, names []string, log *slog.Logger, do func(context.Context) error) error {
	if len(names) == 0 {
		return do(ctx)
	}
	// The lease is given up only when what is done under it has ended, so that being told to stop does not end it.
	electing, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	leading := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: names[0],
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: names[0], Namespace: flags.Namespace},
			Client:     clients.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		},
		LeaseDuration: flags.LeaseDuration, RenewDeadline: flags.RenewDeadline, RetryPeriod: flags.RetryPeriod,
		ReleaseOnCancel: flags.ReleaseOnCancel,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(leading) },
			OnStoppedLeading: func() {},
			OnNewLeader: func(holder string) {
				if holder != identity {
					log.Info("waiting for a leader lease", "lease", names[0], "holder", holder)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("preparing leader election for %s: %w", names[0], err)
	}
	acting, stop := context.WithCancel(ctx)
	defer stop()
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer stop() // whatever ends the lease ends what is done under it
		elector.Run(electing)
	}()
	select {
	case <-ctx.Done(): // told to stop before it was our turn
		resign()
		<-over
		return nil
	case <-over:
		return fmt.Errorf("%w: %s", errLeadershipLost, names[0])
	case <-leading:
	}
	err = leadWith(acting, clients, identity, flags, names[1:], log, do)
	lost := acting.Err() != nil && ctx.Err() == nil
	resign()
	<-over
	if err == nil && lost {
		return fmt.Errorf("%w: %s", errLeadershipLost, names[0])
	}
	return err
}
