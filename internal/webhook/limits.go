package webhook

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The limits of what strangers can make the agent do (faults.md A34, A35). They are far above what senders do: a monorepo's
// busiest host sends some hooks a second.
const (
	// maxBody is Flux's limit of a payload, in bytes.
	maxBody = 3 << 20
	// smallBody is what is read of a body that nobody wants rather than close the connection, in bytes.
	smallBody = 16 << 10
	// maxHeld is how many bytes of payloads are held in memory at a time. One of unknown length counts as maxBody.
	maxHeld = 16 * maxBody
	// maxDepth and maxValues bound what a payload can be decoded to: three bytes can become a hundred.
	maxDepth  = 64
	maxValues = 100_000
	// maxJobs is how many hooks may wait to be acted on.
	maxJobs = 256
	// maxKnown is how many callers are remembered for their limits.
	maxKnown = 4096
	// maxConnections is how many connections there are at a time, of all callers, and maxOfOne how many one of them has.
	maxConnections = 2048
	maxOfOne       = maxConnections / 2
	// maxPenance is how many callers wait at a time for being told to go away, and penance how long: on a connection that waits
	// nothing more can be asked, and waiting costs no CPU.
	maxPenance = 1024
	penance    = time.Second
)

// pace is a number of calls a second, and how many may come at once.
type pace struct {
	rate  rate.Limit
	burst int
}

// paces are how often callers may do what.
type paces struct {
	// overall bounds the calls of paths that are known, of all callers together.
	overall pace
	// hook bounds the calls of one Receiver that are genuine.
	hook pace
	// failure bounds the calls of one address to one path that are not genuine: beyond it nothing of them is read.
	failure pace
	// miss bounds the calls of one address to paths that are not known, before they are told to go away.
	miss pace
	// strangers bounds the same of all addresses together.
	strangers pace
	// connection bounds the connections of one address: beyond it they are closed unread. connections does so for all together.
	connection, connections pace
}

func defaultPaces() paces {
	return paces{
		overall: pace{500, 2000}, hook: pace{50, 400}, failure: pace{2, 20}, miss: pace{10, 50}, strangers: pace{200, 1000},
		connection: pace{200, 1000}, connections: pace{1000, 4000},
	}
}

// buckets count calls by a key, as tokens that are taken from a bucket and come back at a pace. Of keys that were not seen
// for longest nothing is remembered, so that many callers cost no more memory than maxKnown.
type buckets struct {
	pace pace

	mu     sync.Mutex
	by     map[string]*list.Element
	recent *list.List // of *bucket, the one that was seen last in front
}

type bucket struct {
	key     string
	limiter *rate.Limiter
}

func newBuckets(p pace) *buckets {
	return &buckets{pace: p, by: map[string]*list.Element{}, recent: list.New()}
}

// take takes a token, if there is one.
func (b *buckets) take(key string) bool { return b.of(key).Allow() }

// has says whether there is a token.
func (b *buckets) has(key string) bool { return b.of(key).Tokens() >= 1 }

func (b *buckets) of(key string) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.by[key]; ok {
		b.recent.MoveToFront(e)
		return e.Value.(*bucket).limiter
	}
	if b.recent.Len() >= maxKnown {
		oldest := b.recent.Remove(b.recent.Back()).(*bucket)
		delete(b.by, oldest.key)
	}
	fresh := &bucket{key: key, limiter: rate.NewLimiter(b.pace.rate, b.pace.burst)}
	b.by[key] = b.recent.PushFront(fresh)
	return fresh.limiter
}

// caller is who counts as one: an IPv4 address, or a network of IPv6, of which anybody has as many addresses as he likes.
// Headers that a proxy may set are not believed: anybody may.
func caller(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return ""
	}
	address := at.Addr().Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	network, err := address.Prefix(64)
	if err != nil {
		return ""
	}
	return network.String()
}

// Guard bounds the connections of a listener by number and by pace: those of all, and those of one address. What is too much is
// closed before anything is read.
func Guard(l net.Listener) net.Listener {
	p := defaultPaces()
	return &guard{
		Listener: l, pace: newBuckets(p.connection), everyone: rate.NewLimiter(p.connections.rate, p.connections.burst),
		all: maxConnections, each: maxOfOne, open: map[string]int{},
	}
}

type guard struct {
	net.Listener
	pace      *buckets
	everyone  *rate.Limiter
	all, each int // how many connections there may be

	mu    sync.Mutex
	total int
	open  map[string]int // connections of a caller
}

// enter says whether there is room for one more connection, and takes it.
func (g *guard) enter(who string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.all || g.open[who] >= g.each {
		return false
	}
	g.total++
	g.open[who]++
	return true
}

func (g *guard) leave(who string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.open[who]--; g.open[who] == 0 {
		delete(g.open, who)
	}
}

// Accept returns the next connection that is let in.
func (g *guard) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := caller(conn.RemoteAddr().String())
		if g.pace.take(who) && g.everyone.Allow() && g.enter(who) {
			return &guarded{Conn: conn, leave: sync.OnceFunc(func() { g.leave(who) })}, nil
		}
		conn.Close()
	}
}

type guarded struct {
	net.Conn
	leave func()
}

// Close closes the connection and makes room for another.
func (c *guarded) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
