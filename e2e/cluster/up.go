package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// errStopped ends a run that was asked to end: the only good end there is.
var errStopped = errors.New("asked to stop")

// up runs a control plane until it is told to stop, and returns the exit code.
func up(args []string, stdout, stderr io.Writer) int {
	runtime.LockOSThread() // start says why
	o, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // parseOptions has said why
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if err := listen(cancel); err != nil {
		fmt.Fprintf(stderr, "devcluster: %v\n", err)
		return 1
	}
	u := &upRun{options: o, cancel: cancel}
	err = u.run(ctx, stdout)
	u.stop()
	if u.node != nil {
		if clearErr := u.node.clear(); clearErr != nil {
			err = fmt.Errorf("clearing what the node has left: %w", clearErr)
		}
	}
	if errors.Is(err, errStopped) {
		return 0
	}
	fmt.Fprintf(stderr, "devcluster: %v\n", err)
	return 1
}

// listen turns what ends a run from outside into the cause of its context.
func listen(cancel context.CancelCauseFunc) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() { // lives as long as devcluster does
		<-signals
		signal.Reset() // a second signal ends devcluster at once, and the kernel then its children
		cancel(errStopped)
	}()
	return followParent(func() {
		cancel(errors.New("the process that started devcluster has ended (start it with nohup to let it outlive its parent)"))
	})
}

// upRun is one run of up. Each step sets what the later ones need.
type upRun struct {
	options
	cancel   context.CancelCauseFunc
	lock     *os.File              // prepare; kept, since closing it would free the folder
	commands commands              // prepare
	client   *kubernetes.Clientset // prepare
	node     *realNode             // prepare; nil without one
	started  []*process            // startNode, startStore, startControllers; in order
}

// A step of the start. The component is whose log explains its failure.
type step struct {
	name      string
	component string
	do        func(context.Context) error
}

func (u *upRun) steps() []step {
	if u.realNode {
		return []step{
			{"preparing the folder", "", u.prepare},
			{"linking the node's network", "node", u.startNode}, // it waits then
			{"starting etcd and the API server", "", u.startStore},
			{"waiting for the API server", "kube-apiserver", u.awaitAPIServer},
			{"freeing the nodes' leases", "kube-apiserver", u.ensureNodes},
			{"starting the controllers and the scheduler", "", u.startControllers},
			{"starting the node", "node", u.openNode},
			{"waiting for the node", "kubelet", u.awaitNodes},
			{"waiting for the default service account", "kube-controller-manager", u.awaitAccounts},
		}
	}
	return []step{
		{"preparing the folder", "", u.prepare},                                                 // certificates, ports, kubeconfigs
		{"starting etcd and the API server", "", u.startStore},                                  // processes only
		{"waiting for the API server", "kube-apiserver", u.awaitAPIServer},                      // /readyz
		{"creating the nodes", "kube-apiserver", u.ensureNodes},                                 // and freeing their leases
		{"starting the controllers, the scheduler and kwok", "", u.startControllers},            // processes only
		{"waiting for the nodes", "kwok", u.awaitNodes},                                         // Ready, no taints
		{"waiting for the default service account", "kube-controller-manager", u.awaitAccounts}, // pods can be created
	}
}

func (u *upRun) run(ctx context.Context, stdout io.Writer) error {
	began := time.Now()
	starting, done := context.WithTimeoutCause(ctx, u.readyTimeout,
		fmt.Errorf("not done after %s: if the machine is busy, give a longer --ready-timeout", u.readyTimeout))
	defer done()
	for _, s := range u.steps() {
		if err := s.do(starting); err != nil {
			return u.explain(s, causeOf(starting, err))
		}
	}
	fmt.Fprintf(stdout, "ready in %.1fs: %s, KUBECONFIG=%s\n", time.Since(began).Seconds(), u.commands.server(), u.dir.kubeconfig())
	<-ctx.Done()
	return context.Cause(ctx)
}

// causeOf prefers why the context ended to the error of the call that it ended.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// explain adds to the failure of a step what a person needs next: the end of
// the log of the component to blame. An ended component has brought its own.
func (u *upRun) explain(s step, err error) error {
	var ended *endedError
	if errors.Is(err, errStopped) || errors.As(err, &ended) {
		return err
	}
	if s.component == "" {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	log := u.dir.log(s.component)
	return fmt.Errorf("%s: %w\n  log: %s, which ends with\n%s", s.name, err, log, logTail(log, 15))
}

// endedError is a component that ended without being asked to.
type endedError struct {
	name, log string
	err       error // how; nil for exit code 0
}

func (e *endedError) Error() string {
	how := "exit status 0"
	if e.err != nil {
		how = e.err.Error()
	}
	return fmt.Sprintf("%s has ended by itself (%s), so everything was stopped\n  log: %s, which ends with\n%s\n"+
		"  next: mend what the log says; if this folder comes from another version, start with a new --dir", e.name, how, e.log, logTail(e.log, 15))
}

func (e *endedError) Unwrap() error { return e.err }

// prepare does all that needs no process.
func (u *upRun) prepare(context.Context) error {
	found, err := findBinaries()
	if err != nil {
		return err
	}
	if err := u.dir.create(); err != nil {
		return err
	}
	if u.lock, err = u.dir.lock(); err != nil {
		return err
	}
	ports, err := choosePorts(u.dir.path("ports.json"))
	if err != nil {
		return err
	}
	u.commands = commands{binaries: found, dir: u.dir, ports: ports, audit: u.audit, realNode: u.realNode}
	if u.realNode {
		if err := checkNode(found); err != nil {
			return err
		}
		if u.node, err = prepareNode(u.dir); err != nil {
			return err
		}
	}
	if err := ensurePKI(u.dir); err != nil {
		return err
	}
	if err := writeKubeconfigs(u.dir, u.commands.server()); err != nil {
		return err
	}
	if err := writeFile(u.commands.auditPolicyFile(), auditPolicy); err != nil {
		return err
	}
	return u.connect()
}

func (u *upRun) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", u.dir.kubeconfig())
	if err != nil {
		return err
	}
	u.client, err = kubernetes.NewForConfig(config)
	return err
}

// startStore starts both at once: the API server asks for etcd until it is there.
func (u *upRun) startStore(context.Context) error {
	return u.start(u.commands.etcd(), u.commands.apiServer())
}

func (u *upRun) startControllers(context.Context) error {
	list := []command{u.commands.controllerManager(), u.commands.scheduler()}
	if !u.realNode {
		list = append(list, u.commands.kwokNodes())
	}
	return u.start(list...)
}

func (u *upRun) start(list ...command) error {
	for _, c := range list {
		p, err := start(c, u.dir, func(p *process) {
			u.cancel(&endedError{name: p.name, log: p.log, err: p.err})
		})
		if err != nil {
			return err
		}
		u.started = append(u.started, p)
	}
	return nil
}

func (u *upRun) awaitAPIServer(ctx context.Context) error {
	return awaitAPIServer(ctx, u.client)
}

func (u *upRun) ensureNodes(ctx context.Context) error {
	if err := dropLeases(ctx, u.client); err != nil {
		return err
	}
	return ensureNodes(ctx, u.client, u.nodes)
}

func (u *upRun) awaitNodes(ctx context.Context) error {
	if u.realNode {
		return awaitNodes(ctx, u.client, []string{realNodeName})
	}
	var names []string
	for i := range u.nodes {
		names = append(names, nodeName(i))
	}
	return awaitNodes(ctx, u.client, names)
}

func (u *upRun) awaitAccounts(ctx context.Context) error {
	return awaitServiceAccount(ctx, u.client)
}

// stop ends the clients of the API server first, then it, then etcd, so that
// each can still write what it has to.
func (u *upRun) stop() {
	var clients, apiServer, store []*process
	for _, p := range u.started {
		switch p.name {
		case "etcd":
			store = append(store, p)
		case "kube-apiserver":
			apiServer = append(apiServer, p)
		default:
			clients = append(clients, p)
		}
	}
	stop(clients...)
	stop(apiServer...)
	stop(store...)
}
