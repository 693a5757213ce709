package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/gitserver"
	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/proc"
)

const (
	hookToken = "bench-token"
	// pushes are measured each, in blocks beside a flood and blocks without, so that what else the machine does is in both.
	blocks, pushes = 5, 10
	// burstHooks and burstSources are measured all at once.
	burstHooks   = 200
	burstSources = 50
	// floodRate is how many requests a second strangers make.
	floodRate = 10_000
)

// webhook measures from the answer to the hook of a push until its change is on the cluster; what a burst of hooks costs; and
// what a flood of requests to paths that there are not does to the first.
func webhook(ctx context.Context, w *world) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	repo, commit, err := w.repository(counted(0))
	if err != nil {
		return err
	}
	if err := w.apply(ctx, hooked()); err != nil {
		return err
	}
	if _, err := w.cluster.Until(ctx, live.Ref{Kind: "kustomizations", Namespace: namespace, Name: "shop"}, live.ReadyAt(commit)); err != nil {
		return err
	}
	url, err := w.hookURL(ctx, "push")
	if err != nil {
		return err
	}
	w.git.Hook("shop", url, hookToken)
	count := 0
	kinds := []struct {
		name  string
		flood func(context.Context) func() string
	}{
		{"a push: hook answered to live", func(context.Context) func() string { return func() string { return "" } }},
		{"the same, beside a flood of requests to unknown paths", func(ctx context.Context) func() string { return w.flood(ctx, false) }},
		{"the same, each request by a connection of its own", func(ctx context.Context) func() string { return w.flood(ctx, true) }},
	}
	times, floods := make([][]time.Duration, len(kinds)), make([][]string, len(kinds))
	for range blocks {
		for i, kind := range kinds {
			stop := kind.flood(ctx)
			took, err := w.pushAll(ctx, repo, &count)
			floods[i] = append(floods[i], stop())
			if err != nil {
				return err
			}
			times[i] = append(times[i], took...)
		}
	}
	for i, kind := range kinds {
		reportTimes(kind.name, times[i])
		if i > 0 {
			fmt.Println("  the floods: " + strings.Join(floods[i], "; "))
		}
	}
	return w.burst(ctx)
}

func reportTimes(what string, took []time.Duration) {
	slices.Sort(took)
	n := len(took)
	fmt.Printf("%-60s %d times: p50 %4d ms, p90 %4d ms, slowest %4d ms\n", what, n, took[n/2].Milliseconds(), took[n*9/10].Milliseconds(), took[n-1].Milliseconds())
}

// counted is twenty ConfigMaps, of which the last says which push it is.
func counted(n int) string {
	var files strings.Builder
	for i := range 20 {
		value := 0
		if i == 19 {
			value = n
		}
		fmt.Fprintf(&files, "-- app/c%[1]d.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%[1]d}\ndata: {n: \"%[2]d\"}\n", i, value)
	}
	return files.String()
}

// hooked are the Kustomization, and two Receivers: of the repository, and of the sources of a burst.
func hooked() *strings.Builder {
	manifests := &strings.Builder{}
	fmt.Fprintf(manifests, `---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop}
spec: {interval: 1h, path: ./app, prune: true, targetNamespace: %s, sourceRef: {kind: GitRepository, name: shop}}
---
apiVersion: v1
kind: Secret
metadata: {name: token}
stringData: {token: %s}
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: push}
spec: {type: github, events: [push], secretRef: {name: token}, resources: [{kind: GitRepository, name: shop}]}
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: burst}
spec: {type: github, events: [push], secretRef: {name: token}, resources: [{kind: GitRepository, name: "*", matchLabels: {burst: "yes"}}]}
`, namespace, hookToken)
	return manifests
}

// hookURL is where the agent takes the hooks of a Receiver.
func (w *world) hookURL(ctx context.Context, receiver string) (string, error) {
	obj, err := w.cluster.Until(ctx, live.Ref{Kind: "receivers", Namespace: namespace, Name: receiver}, live.Ready)
	if err != nil {
		return "", err
	}
	path, _, err := unstructured.NestedString(obj.Object, "status", "webhookPath")
	if err != nil {
		return "", err
	}
	url := "http://" + w.config.ReceiverAddr + path
	return url, proc.AwaitHook(ctx, url)
}

// pushAll pushes again and again, each time when the push before is live and a second has passed since its hook: those that come
// within a second are taken together. It returns how long after the answer to its hook each was live.
func (w *world) pushAll(ctx context.Context, repo *gitserver.Repo, count *int) ([]time.Duration, error) {
	var took []time.Duration
	pace := time.NewTicker(1200 * time.Millisecond)
	defer pace.Stop()
	for range pushes {
		*count++
		n := *count
		seen := make(chan time.Time, 1)
		go func() { seen <- w.live(ctx, n) }()
		if _, err := push(repo, counted(n)); err != nil {
			return nil, err
		}
		at := <-seen
		deliveries := w.git.Deliveries()
		if at.IsZero() || len(deliveries) != 1 || deliveries[0].Status != http.StatusOK {
			return nil, fmt.Errorf("push %d: live at %s, hooks %v", n, at, deliveries)
		}
		took = append(took, max(0, at.Sub(deliveries[0].Answered)))
		<-pace.C
	}
	return took, nil
}

// live returns when the change of a push is seen on the cluster.
func (w *world) live(ctx context.Context, n int) time.Time {
	_, err := w.cluster.Until(ctx, live.Ref{Kind: "configmaps", Namespace: namespace, Name: "c19"}, func(obj *unstructured.Unstructured) bool {
		value, _, err := unstructured.NestedString(obj.Object, "data", "n")
		return err == nil && value == fmt.Sprint(n)
	})
	if err != nil {
		return time.Time{}
	}
	return time.Now()
}

// burst posts hooks that each mean all sources, within a second, and prints how often the Git server was asked for each.
func (w *world) burst(ctx context.Context) error {
	manifests := &strings.Builder{}
	for i := range burstSources {
		name := fmt.Sprintf("burst-%d", i)
		repo, err := w.git.Create(name)
		if err != nil {
			return err
		}
		if _, err := push(repo, counted(0)); err != nil {
			return err
		}
		fmt.Fprintf(manifests, "---\napiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: %s, labels: {burst: \"yes\"}}\n"+
			"spec: {interval: 1h, url: %q, ref: {branch: main}}\n", name, w.git.URL(name))
	}
	if _, err := w.cluster.Apply(ctx, []byte(manifests.String()), namespace); err != nil {
		return err
	}
	if err := w.cluster.UntilAll(ctx, "gitrepositories", namespace, burstSources+1, live.Ready); err != nil {
		return err
	}
	url, err := w.hookURL(ctx, "burst")
	if err != nil {
		return err
	}
	w.git.Asked()
	l, err := w.lap()
	if err != nil {
		return err
	}
	answers, took := w.postAll(url)
	<-time.After(3 * time.Second) // what comes of them has come by then, and there is nothing to wait for when nothing more comes
	asked := map[string]int{}
	for _, line := range w.git.Asked() {
		if strings.HasSuffix(line, "/info/refs") {
			asked[line]++
		}
	}
	most := 0
	for _, n := range asked {
		most = max(most, n)
	}
	fmt.Printf("%-60s %d sources asked for, each %d times at most; answers %v in %.2f s\n",
		fmt.Sprintf("%d hooks that mean %d sources each", burstHooks, burstSources), len(asked), most, answers, took.Seconds())
	return l.report("the same")
}

// postAll posts the hooks of a burst, by several senders.
func (w *world) postAll(url string) (answers map[int]int, took time.Duration) {
	began := time.Now()
	answers = map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range burstHooks / 4 {
				d := gitserver.Deliver(url, hookToken, "burst", "", "")
				mu.Lock()
				answers[d.Status]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return answers, time.Since(began)
}

// flood makes requests to paths that there are not, as many as there are answers to and floodRate a second at most, until it is
// stopped; it then says what became of them. With anew each is made by a new connection that is given up at once: then nobody waits
// for an answer, and 200 is one that was made, whatever has become of it.
func (w *world) flood(ctx context.Context, anew bool) (stop func() string) {
	ctx, cancel := context.WithCancel(ctx)
	const connections = 200
	transport := &http.Transport{MaxIdleConnsPerHost: connections, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	var answers [600]atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for c := range connections {
		all.Go(func() {
			pace := time.NewTicker(connections * time.Second / floodRate)
			defer pace.Stop()
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-pace.C:
				}
				if anew {
					answers[w.open(ctx)].Add(1)
					continue
				}
				if status := w.miss(ctx, client, fmt.Sprintf("/hook/%d-%d", c, i)); ctx.Err() == nil {
					answers[status].Add(1)
				}
			}
		})
	}
	return func() string {
		took := time.Since(began).Seconds()
		cancel()
		all.Wait()
		transport.CloseIdleConnections()
		var text strings.Builder
		total := int64(0)
		for status := range answers {
			if n := answers[status].Load(); n > 0 {
				fmt.Fprintf(&text, " %d×%d", n, status)
				total += n
			}
		}
		return fmt.Sprintf("%.0f a second were made:%s", float64(total)/took, text.String())
	}
}

// open makes a connection, asks for a path that there is not and gives the connection up. It returns 0 when there was none.
func (w *world) open(ctx context.Context) int {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", w.config.ReceiverAddr)
	if err != nil {
		return 0
	}
	_, err = io.WriteString(conn, "POST /hook/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
	if errors.Join(err, conn.Close()) != nil {
		return 0
	}
	return http.StatusOK
}

// miss returns the status of a request to a path that there is not; 0 when there is no answer.
func (w *world) miss(ctx context.Context, client *http.Client, path string) int {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.config.ReceiverAddr+path, strings.NewReader("{}"))
	if err != nil {
		return 0
	}
	res, err := client.Do(req)
	if err != nil {
		return 0
	}
	_, err = io.Copy(io.Discard, res.Body)
	if errors.Join(err, res.Body.Close()) != nil {
		return 0
	}
	return res.StatusCode
}
