package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
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

// leadWith runs do while all leases are held. They are taken in order, so that of two agents that begin at once neither holds what
// the other waits for; but all are looked at from the beginning: how long a lease has not been renewed counts from when it was seen first,
// and those of a leader that has crashed are to run out together.
func leadWith(ctx context.Context, clients kubernetes.Interface, identity string, flags Flags, names []string, log *slog.Logger, do func(context.Context) error) error {
	// The leases are given up only when what is done under them has ended, so that being told to stop does not end it.
	electing, resign := context.WithCancel(context.WithoutCancel(ctx))
	acting, stop := context.WithCancelCause(ctx)
	var electors sync.WaitGroup
	defer electors.Wait()
	defer resign()
	defer stop(nil)
	turn := make(chan struct{}) // of the first lease
	close(turn)
	for _, name := range names {
		gone := fmt.Errorf("%w: %s", errLeadershipLost, name)
		elector, leading, err := flags.elector(clients, identity, name, turn, func() { stop(gone) }, log)
		if err != nil {
			return err
		}
		electors.Go(func() {
			elector.Run(electing)
			stop(gone) // whatever ends a lease ends what is done under it
		})
		turn = leading
	}
	select {
	case <-turn: // the last one is held, and so are all
		err := do(acting)
		if err == nil && ctx.Err() == nil {
			err = lost(acting)
		}
		return err
	case <-acting.Done():
		if ctx.Err() != nil {
			return nil // told to stop before it was our turn
		}
		return lost(acting)
	}
}

// lost returns the error of having lost a lease, nil when none was lost.
func lost(acting context.Context) error {
	if err := context.Cause(acting); errors.Is(err, errLeadershipLost) {
		return err
	}
	return nil
}

// elector returns what takes and keeps a lease once it is its turn, and what is closed when it has it. It tells when it has lost it.
func (f *Flags) elector(clients kubernetes.Interface, identity, name string, turn <-chan struct{}, lost func(), log *slog.Logger) (*leaderelection.LeaderElector, chan struct{}, error) {
	leading := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: name,
		Lock: lease{name: name, identity: identity, turn: turn, held: f.tenure, lost: lost, Interface: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: name, Namespace: f.Namespace},
			Client:     clients.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
		}},
		LeaseDuration: f.LeaseDuration, RenewDeadline: f.RenewDeadline, RetryPeriod: f.RetryPeriod,
		ReleaseOnCancel: f.ReleaseOnCancel,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(leading) },
			OnStoppedLeading: func() {},
			OnNewLeader: func(holder string) {
				if holder != identity {
					log.Info("waiting for a leader lease", "lease", name, "holder", holder)
				}
			},
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("preparing leader election for %s: %w", name, err)
	}
	return elector, leading, nil
}

// lease is a lease that is read at once and taken when it is its turn. Until then, taking it waits: an error would be tried again
// only after the retry period.
type lease struct {
	resourcelock.Interface
	name, identity string
	turn           <-chan struct{}
	held           *tenure
	lost           func() // told when another holds what was ours
}

// Get implements resourcelock.Interface.
func (l lease) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if err == nil && record.HolderIdentity != l.identity && l.held.end(l.name) {
		l.lost()
	}
	return record, raw, err
}

// Create implements resourcelock.Interface.
func (l lease) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.take(ctx, record, l.Interface.Create)
}

// Update implements resourcelock.Interface.
func (l lease) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity != l.identity {
		return l.release(ctx, record)
	}
	return l.take(ctx, record, l.Interface.Update)
}

func (l lease) take(ctx context.Context, record resourcelock.LeaderElectionRecord, do func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	if err := do(ctx, record); err != nil {
		return err
	}
	l.held.renew(l.name, began)
	return nil
}

// release gives the lease up. The elector would give up the lease of another, too, if that has been taken since it looked.
func (l lease) release(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if !l.held.end(l.name) {
		return fmt.Errorf("%w: %s is not ours to give up", errLeadershipLost, l.name)
	}
	return l.Interface.Update(ctx, record)
}
