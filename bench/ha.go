package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cleat-dev/cleat/e2e/failover"
	"github.com/cleat-dev/cleat/e2e/proc"
)

const (
	// crashes and handovers are how often the leader goes away, each way.
	crashes, handovers = 10, 10
	// crashLimit and handoverLimit are what was promised for each.
	crashLimit, handoverLimit = 20 * time.Second, 2 * time.Second
)

// haSize is 100 objects and 20 Helm upgrades.
var haSize = failover.Size{Kustomizations: 20, Objects: 5, Releases: 20}

// haFlags are those of manifests/components/ha, and the name of the Service that leads to whoever leads.
var haFlags = []string{
	"--enable-leader-election", "--leader-election-lease-duration=15s", "--leader-election-renew-deadline=10s",
	"--leader-election-retry-period=750ms", "--storage-adv-addr=source-controller." + namespace,
}

// failovers measures how long it takes until the second of two agents leads, when the first is killed or told to stop in the middle of
// its work, and judges what has become of that.
func failovers(ctx context.Context, w *world) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	if err := w.agent.Stop(); err != nil { // the one agent that other scenarios measure
		return err
	}
	work, err := failover.New(w.cluster, namespace, w.git, os.DirFS(filepath.Join(w.root, "e2e", "testdata", "charts")), haSize)
	if err != nil {
		return err
	}
	p := &agents{w: w, work: work}
	defer p.stop()
	if err := p.start(ctx); err != nil {
		return err
	}
	followed := make(chan error, 1)
	following, stop := context.WithCancel(ctx)
	go func() { followed <- work.Follow(following) }()
	err = p.rounds(ctx)
	stop()
	return errors.Join(err, <-followed)
}

// agents are two of which one leads.
type agents struct {
	w                *world
	work             *failover.Work
	leading, waiting *haAgent
	leader           string // what the one that leads calls itself
}

// haAgent is one of them.
type haAgent struct {
	config  *proc.AgentConfig
	process *proc.Process
}

func (p *agents) start(ctx context.Context) error {
	var err error
	if p.leading, err = p.agent(ctx, "a"); err != nil {
		return err
	}
	if p.leader, err = failover.Leader(ctx, p.w.cluster, namespace, ""); err != nil {
		return err
	}
	p.waiting, err = p.agent(ctx, "b")
	return err
}

func (p *agents) agent(ctx context.Context, name string) (*haAgent, error) {
	config := &proc.AgentConfig{Kubeconfig: p.w.kubeconfig(), Storage: filepath.Join(p.w.dir, "storage-"+name), Flags: append(slices.Clone(p.w.flags), haFlags...)}
	if err := os.Mkdir(config.Storage, 0o755); err != nil {
		return nil, err
	}
	a := &haAgent{config: config}
	return a, a.start(ctx, p.w.root)
}

func (a *haAgent) start(ctx context.Context, root string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := a.config.FreeAddresses(); err != nil {
		return err
	}
	var err error
	a.process, err = proc.Start(ctx, proc.Agent(filepath.Join(root, "bin", "cleat"), a.config, []string{"RUNTIME_NAMESPACE=" + namespace}, nil))
	return err
}

func (p *agents) stop() {
	for _, a := range []*haAgent{p.waiting, p.leading} {
		if a != nil && a.process != nil {
			a.process.Kill()
		}
	}
}

// rounds does all rounds of both ways and prints what they come to.
func (p *agents) rounds(ctx context.Context) error {
	if err := p.work.Install(ctx); err != nil {
		return err
	}
	kill := func(a *haAgent) error {
		a.process.Kill()
		return nil
	}
	stop := func(a *haAgent) error { return a.process.Stop() }
	return errors.Join(
		p.all(ctx, "leader killed (kill -9)", crashes, crashLimit, kill),
		p.all(ctx, "leader told to stop (SIGTERM)", handovers, handoverLimit, stop),
	)
}

// all does rounds of one way, with the leader going away earlier or later in each.
func (p *agents) all(ctx context.Context, what string, rounds int, limit time.Duration, away func(*haAgent) error) error {
	var took, done []time.Duration
	var sum failover.Verdict
	objects, middle := haSize.Kustomizations*haSize.Objects+haSize.Releases, 0
	for i := range rounds {
		at, finished, left, err := p.round(ctx, (i+1)*objects/(rounds+2), away)
		if err != nil {
			return fmt.Errorf("%s, round %d: %w", what, i+1, err)
		}
		if left > 0 {
			middle++
		}
		verdict, err := p.work.Judge(ctx)
		if err != nil {
			return fmt.Errorf("%s, round %d: %w", what, i+1, err)
		}
		took, done = append(took, at), append(done, finished)
		sum.Lost, sum.Twice, sum.Stuck = append(sum.Lost, verdict.Lost...), append(sum.Twice, verdict.Twice...), append(sum.Stuck, verdict.Stuck...)
		sum.Unlocks, sum.Repeated = sum.Unlocks+verdict.Unlocks, sum.Repeated+verdict.Repeated
	}
	slices.Sort(took)
	slices.Sort(done)
	last := rounds - 1
	fmt.Printf("%-32s %d times, %d in the middle of %d applies and %d Helm upgrades: the other leads after p50 %.2f s, slowest %.2f s; all done after p50 %.2f s, slowest %.2f s\n",
		what, rounds, middle, haSize.Kustomizations*haSize.Objects, haSize.Releases, took[rounds/2].Seconds(), took[last].Seconds(), done[rounds/2].Seconds(), done[last].Seconds())
	fmt.Printf("%-32s %d lost, %d changed twice, %d releases stuck, %d upgrades cut off and done anew, %d ended and repeated\n", "", len(sum.Lost), len(sum.Twice), len(sum.Stuck), sum.Unlocks, sum.Repeated)
	if !sum.OK() {
		return fmt.Errorf("%s: %s", what, sum)
	}
	if took[last] > limit {
		return fmt.Errorf("%s: the other leads after %s, and not after %s", what, took[last], limit)
	}
	return nil
}

// round has the leader go away when so many objects have changed, and starts it again as the one that waits. It returns how long after
// that the other led, how long after that all was done, and how many objects had not changed yet.
func (p *agents) round(ctx context.Context, changes int, away func(*haAgent) error) (took, done time.Duration, left int, err error) {
	reached, err := p.work.Begin(ctx, changes)
	if err != nil {
		return 0, 0, 0, err
	}
	select {
	case <-reached:
	case <-ctx.Done():
		return 0, 0, 0, ctx.Err()
	}
	began := time.Now()
	gone := make(chan error, 1)
	go func() { gone <- away(p.leading) }()
	if p.leader, err = failover.Leader(ctx, p.w.cluster, namespace, p.leader); err != nil {
		return 0, 0, 0, errors.Join(err, <-gone)
	}
	took = time.Since(began)
	if err := <-gone; err != nil {
		return 0, 0, 0, err
	}
	changed, all := p.work.Changed()
	if err := p.work.Done(ctx); err != nil {
		return 0, 0, 0, err
	}
	done = time.Since(began)
	p.leading, p.waiting = p.waiting, p.leading
	return took, done, all - changed, p.waiting.start(ctx, p.w.root)
}
