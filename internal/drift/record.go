package drift

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cleat-dev/cleat/internal/object"
)

// State says where an object stands that was once seen not to be as it was left.
type State string

const (
	// Open: it is not as it was left.
	Open State = "Open"
	// Corrected: it was put right.
	Corrected State = "Corrected"
	// Contested: it is put right, and somebody undoes it each time.
	Contested State = "Contested"
	// Resolved: it is as it was left again, and others did that, or it is not declared any more.
	Resolved State = "Resolved"
)

// Record is what is known of the drift of one object: of the last incident, and how many there were.
type Record struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`

	State  State  `json:"state"`
	Reason Reason `json:"reason"`
	// Differences are where it was not as declared; none when it was missing.
	Differences []Difference `json:"differences,omitempty"`
	Omitted     int          `json:"omitted,omitempty"`
	// Seen is when that was seen first, Ended when it was put right.
	Seen  time.Time  `json:"seen"`
	Ended *time.Time `json:"ended,omitempty"`
	// Times counts the incidents, this one included; Corrections, how often it was put right.
	Times       int `json:"times"`
	Corrections int `json:"corrections,omitempty"`
	// Error is why it could not be put right the last time.
	Error string `json:"error,omitempty"`
}

func newRecord(ref object.Ref) Record {
	version := ref.Version
	if ref.Group != "" {
		version = ref.Group + "/" + ref.Version
	}
	return Record{APIVersion: version, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
}

// Object returns Kind/namespace/name.
func (r Record) Object() string {
	return object.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}.String()
}

// Authors returns who has changed the object, each once, newest first.
func (r Record) Authors() []Author {
	var out []Author
	for _, d := range r.Differences {
		for _, by := range d.By {
			if !slices.ContainsFunc(out, func(a Author) bool { return a.Manager == by.Manager && a.Subresource == by.Subresource }) {
				out = append(out, by)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Author) int { return cmp.Compare(b.Time, a.Time) })
	return out
}

// Summary is one line of what has changed, the same for the same.
func (r Record) Summary() string {
	return Verdict{Reason: r.Reason, Differences: r.Differences, Omitted: r.Omitted}.Summary()
}

// ended says whether the incident is over.
func (r Record) ended() bool { return r.State == Corrected || r.State == Resolved }

// What is kept of one owner is bounded. What is open is the last to go.
const (
	maxRecords     = 2000
	maxRecordBytes = 512 << 10
)

// book is the record of one owner.
type book struct {
	entries map[object.Key]*entry
	bytes   int
}

// entry is the record of one object, and what is to be done about it next.
type entry struct {
	Record
	fight fight
	bytes int
	// tried says that it was applied and no answer came: if it is as declared next, that was us.
	tried bool
	// told are the events that were sent, or are about to be.
	told map[State]bool
}

func newBook() *book { return &book{entries: map[object.Key]*entry{}} }

// seen notes that an object is not as it was left. It returns the entry, and whether that is a new incident.
func (b *book) seen(ref object.Ref, v Verdict, now time.Time) (e *entry, fresh bool) {
	e = b.entries[ref.Key()]
	if e == nil {
		e = &entry{Record: newRecord(ref)}
		e.State = Resolved
		b.entries[ref.Key()] = e
	}
	e.fight = e.fight.again(now)
	fresh = e.ended()
	if fresh && e.fight.rounds == 0 { // what comes back again and again is one incident
		e.told = map[State]bool{}
	}
	if fresh {
		e.State, e.Seen, e.Ended, e.Error, e.tried = Open, now, nil, "", false
		e.Times++
	}
	e.Reason, e.Differences, e.Omitted = v.Reason, v.Differences, v.Omitted
	if e.fight.contested() {
		e.State = Contested
	}
	b.resize(e)
	b.trim()
	return e, fresh
}

// corrected notes that an object was put right.
func (b *book) corrected(e *entry, now time.Time) {
	e.fight = e.fight.corrected(now)
	e.Corrections++
	e.State, e.Error, e.Ended, e.tried = Corrected, "", &now, false
	if e.fight.contested() {
		e.State, e.Ended = Contested, nil
	}
	b.resize(e)
}

// failed notes that an object could not be put right.
func (b *book) failed(e *entry, why string, now time.Time) {
	e.fight = e.fight.tried(now)
	e.Error = why
	b.resize(e)
}

// resolved notes that an object is as it was left. A fight is only over when that lasts. It says whether anything has changed, and
// whether that was a correction whose answer has not come.
func (b *book) resolved(key object.Key, now time.Time) (changed, ours bool) {
	e := b.entries[key]
	switch {
	case e == nil, e.ended():
		return false, false
	case e.State == Contested && !e.fight.over(now):
		return false, false
	case e.State == Contested:
		e.State = Corrected
	case e.tried:
		b.corrected(e, now)
		return true, true
	default:
		e.State = Resolved
	}
	e.Error, e.Ended = "", &now
	b.resize(e)
	return true, false
}

func (b *book) resize(e *entry) {
	text, err := json.Marshal(e.Record)
	if err != nil {
		return // It is made of texts and numbers.
	}
	b.bytes += len(text) - e.bytes
	e.bytes = len(text)
}

// trim drops the oldest entries that are over, then the oldest at all, until the rest has room.
func (b *book) trim() {
	if len(b.entries) <= maxRecords && b.bytes <= maxRecordBytes {
		return
	}
	keys := slices.SortedFunc(maps.Keys(b.entries), func(x, y object.Key) int {
		p, q := b.entries[x], b.entries[y]
		if p.ended() != q.ended() {
			if p.ended() {
				return -1
			}
			return 1
		}
		return cmp.Or(p.Seen.Compare(q.Seen), compareKeys(x, y))
	})
	for _, key := range keys {
		if len(b.entries) <= maxRecords*9/10 && b.bytes <= maxRecordBytes*9/10 {
			return
		}
		b.bytes -= b.entries[key].bytes
		delete(b.entries, key)
	}
}

// records returns a copy of all records, the newest first.
func (b *book) records() []Record {
	out := make([]Record, 0, len(b.entries))
	for _, e := range b.entries {
		out = append(out, e.Record)
	}
	SortRecords(out)
	return out
}

// SortRecords sorts what is open first, then the newest first.
func SortRecords(records []Record) {
	slices.SortFunc(records, func(a, b Record) int {
		if a.ended() != b.ended() {
			if b.ended() {
				return -1
			}
			return 1
		}
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.Object(), b.Object()))
	})
}

// restore takes in what an earlier process has kept. It says nothing about what is to be done: anybody may have written it.
func (b *book) restore(records []Record) {
	for _, r := range records {
		group, _, grouped := strings.Cut(r.APIVersion, "/")
		if !grouped {
			group = ""
		}
		key := object.Key{Group: group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
		if b.entries[key] != nil || len(b.entries) >= maxRecords || b.bytes > maxRecordBytes {
			continue
		}
		e := &entry{Record: r, told: map[State]bool{r.State: true}}
		if e.State == Contested {
			e.State = Open // whether it still is will be seen
		}
		b.entries[key] = e
		b.resize(e)
	}
}
