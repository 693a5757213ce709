package notify

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// maxTurns is how many objects are known to fail, each counted for each Alert that was told so, or was not.
const maxTurns = 16384

// about is an object as an Alert has been told about it.
type about struct {
	alert  types.UID
	object string
}

// turns knows which objects fail, for the Alerts that want to hear only when that changes. It is used by one goroutine.
//
// Of objects of this process the reconcilers say when (reconcile.Turn); here is only whether an Alert was told, since its lists may
// have kept that from it. What others tell of are events alone, of which the severity counts.
type turns struct {
	told map[about]bool
}

func newTurns() *turns { return &turns{told: map[about]bool{}} }

// identity names an object whatever the version it is read in.
func (m *Message) identity() string {
	o := m.InvolvedObject
	return schema.FromAPIVersionAndKind(o.APIVersion, o.Kind).Group + "/" + o.Kind + "/" + o.Namespace + "/" + o.Name
}

// turn says whether a message is one of a change, and makes one of a recovery say so. wanted says whether the Alert's lists let a
// message pass.
func (t *turns) turn(r *rule, m *Message, foreign bool, wanted func() bool) bool {
	key := about{r.alert.UID, m.identity()}
	told, known := t.told[key]
	switch {
	case m.failed():
		return t.bad(key, foreign && told, wanted)
	case foreign && (m.underway() || !told):
		return false // it has changed nothing yet, or there was nothing to mend
	}
	delete(t.told, key)
	if known && !told {
		return false // the failure was kept from the Alert
	}
	// Of what has failed before this process began, or was forgotten, it is news that it does so no more.
	m.Message = "Recovered: " + m.Message
	// What ends an incident is for everybody who was told of it, and not only for who keeps a status.
	delete(m.Metadata, commitStatusKey)
	return true
}

// bad notes a failure, and says whether it is to be told.
func (t *turns) bad(key about, already bool, wanted func() bool) bool {
	if already {
		return false
	}
	if len(t.told) >= maxTurns {
		clear(t.told) // that of some the end is told and not the beginning, or twice, is better than to remember without end
	}
	t.told[key] = wanted()
	return t.told[key]
}
