package e2e_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cleat-dev/cleat/e2e/failover"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

// pair are two agents, children of this process, of which one leads, and what they have to do.
type pair struct {
	t                *testing.T
	ctx              context.Context
	cluster          *testenv.Cluster
	namespace        string
	leading, waiting *testenv.Agent
	proxy            *testenv.Proxy // of the agent that leads first
	leader           string         // what it calls itself
	work             *failover.Work
}

// newPair starts two agents with leases that are short, and has the first do round 0.
func newPair(t *testing.T, size failover.Size) *pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	cluster := testenv.Shared(t)
	p := &pair{t: t, ctx: ctx, cluster: cluster, namespace: cluster.Namespace(t, "ha"), proxy: testenv.NewProxy(t, cluster)}
	var err error
	if p.work, err = failover.New(cluster.Cluster, p.namespace, testenv.Git(t), os.DirFS("testdata/charts"), size); err != nil {
		t.Fatal(err)
	}
	flags := []string{
		"--enable-leader-election", "--leader-election-lease-duration=4s", "--leader-election-renew-deadline=3s", "--leader-election-retry-period=300ms",
		"--storage-adv-addr=source-controller." + p.namespace, // a Service, which leads to whoever leads
	}
	p.leading = testenv.NewAgent(t, p.proxy.Kubeconfig, p.namespace, flags...)
	p.waiting = testenv.NewAgent(t, cluster.Kubeconfig, p.namespace, flags...)
	p.check(p.leading.StartChild(ctx, p.proxy.Kubeconfig))
	p.awaitLeader()
	p.check(p.waiting.StartChild(ctx, cluster.Kubeconfig))
	followed := make(chan error, 1)
	following, stop := context.WithCancel(ctx)
	go func() { followed <- p.work.Follow(following) }()
	t.Cleanup(func() {
		stop()
		if err := <-followed; err != nil {
			t.Error(err)
		}
	})
	p.check(p.work.Install(ctx))
	return p
}

func (p *pair) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// awaitLeader waits until another agent leads, and returns how long that took.
func (p *pair) awaitLeader() time.Duration {
	p.t.Helper()
	began := time.Now()
	leader, err := failover.Leader(p.ctx, p.cluster.Cluster, p.namespace, p.leader)
	p.check(err)
	p.leader = leader
	return time.Since(began)
}

// begin begins a round and returns when so many of its ConfigMaps have changed.
func (p *pair) begin(changes int) {
	p.t.Helper()
	reached, err := p.work.Begin(p.ctx, changes)
	p.check(err)
	select {
	case <-reached:
	case <-p.ctx.Done():
		p.t.Fatal("the round does not get anywhere")
	}
}

// finish waits until the round is done and judges it.
func (p *pair) finish() {
	p.t.Helper()
	p.check(p.work.Done(p.ctx))
	verdict, err := p.work.Judge(p.ctx)
	p.check(err)
	if !verdict.OK() {
		p.t.Fatal(verdict)
	}
	p.t.Log(verdict)
}

// TestLeaderKilled kills the leader with SIGKILL in the middle of 100 objects and of Helm upgrades. The standby does the rest: nothing
// is lost, nothing is done twice to effect, and no release is stuck.
func TestLeaderKilled(t *testing.T) {
	p := newPair(t, failover.Size{Kustomizations: 20, Objects: 5, Releases: 5})
	inTheMiddle := 0
	for _, after := range []int{25, 50} {
		p.begin(after)
		p.leading.Kill()
		if changed, all := p.work.Changed(); changed < all {
			inTheMiddle++
		}
		took := p.awaitLeader()
		if took > 20*time.Second {
			t.Errorf("the standby has taken over after %s", took)
		}
		p.leading, p.waiting = p.waiting, p.leading
		p.check(p.waiting.StartChild(p.ctx, p.cluster.Kubeconfig))
		p.finish()
		t.Logf("killed after %d changes; taken over in %s", after, took)
	}
	if inTheMiddle == 0 {
		t.Error("each time the leader had done everything before it was killed")
	}
}

// TestOldLeaderWritesNothing: a leader that has lost its leases in the middle of its work, and does not know it yet, writes nothing any
// more and ends. One is stopped until another leads and then goes on with the very next step; one is cut off meanwhile.
func TestOldLeaderWritesNothing(t *testing.T) {
	for name, way := range map[string]struct{ away, back func(p *pair) }{
		"frozen": {func(p *pair) { p.leading.Freeze() }, func(p *pair) { p.leading.Thaw() }},
		"cut":    {func(p *pair) { go p.proxy.Cut(true) }, func(p *pair) { p.proxy.Cut(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, failover.Size{Kustomizations: 10, Objects: 5, Releases: 3})
			away := p.proxy.Notice(30, func() { way.away(p) })
			p.begin(1)
			select {
			case <-away:
			case <-p.ctx.Done():
				t.Fatal("the leader does not write")
			}
			p.awaitLeader()
			p.finish()

			before := p.proxy.Writes()
			way.back(p)
			p.check(p.leading.Ended(p.ctx))
			if after := p.proxy.Writes()[len(before):]; len(after) > 0 {
				t.Errorf("it has written after another had taken over:\n%s", strings.Join(after, "\n"))
			}
			if !strings.Contains(p.leading.Log(), "lost a leader lease") {
				t.Error("it does not say why it has ended")
			}
			p.finish()
		})
	}
}

// TestRollingUpgrade: a leader that is told to stop hands over in under two seconds, and the next one writes nothing though everything
// is reconciled again: it goes on from the status.
func TestRollingUpgrade(t *testing.T) {
	p := newPair(t, failover.Size{Kustomizations: 10, Objects: 5, Releases: 3})
	audit, err := p.cluster.AuditLog()
	if err != nil {
		t.Skip(err)
	}
	mark, err := audit.Mark()
	p.check(err)
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- p.leading.Stop() }()
	p.awaitLeader()
	took := time.Since(began)
	p.check(<-stopped)
	t.Logf("handed over in %s", took)
	if took > 2*time.Second {
		t.Errorf("handed over in %s", took)
	}
	p.check(p.work.Again(p.ctx))
	requests, err := audit.AgentRequests(mark, p.namespace)
	p.check(err)
	if len(requests) == 0 {
		t.Error("the audit log has nothing of what the agents have asked")
	}
	for _, r := range requests {
		// That it was asked to look again is told by the status, and nothing else is.
		if r.Writes() && !strings.HasSuffix(r.Resource, ".toolkit.fluxcd.io/status") {
			t.Errorf("the successor has asked: %s", r)
		}
	}
}
