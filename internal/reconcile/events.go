package reconcile

import (
	"maps"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
)

// maxEventMessage is how much of a message an event keeps, in bytes; the API server refuses events much larger.
const maxEventMessage = 39000

// userMetadata prefixes the annotations that users put on an object to find them in its events.
const userMetadata = "event.toolkit.fluxcd.io/"

// Event is something that happened to an object, in the past tense.
type Event struct {
	// Type is corev1.EventTypeNormal or corev1.EventTypeWarning.
	Type string
	// Reason is a CamelCase word, as in conditions.
	Reason  string
	Message string
	// Metadata become annotations of the Kubernetes event; the keys are prefixed with the kind's API group.
	Metadata map[string]string

	turn Turn
}

// Recorder is the one way by which events leave a reconciler.
type Recorder struct {
	kubernetes record.EventRecorder
	bus        *Bus
	reporter   Reporter
}

// Reporter is whom the bus names as the one who tells.
type Reporter struct {
	// Scheme knows the kinds of typed objects.
	Scheme *runtime.Scheme
	// Controller is the name of Flux's controller for the kind, Instance that of the pod.
	Controller, Instance string
}

// NewRecorder records to Kubernetes through client-go's recorder, which aggregates and rate-limits.
func NewRecorder(kubernetes record.EventRecorder) *Recorder { return &Recorder{kubernetes: kubernetes} }

// Telling returns a recorder that tells on the bus, too, whatever it records.
func (r *Recorder) Telling(bus *Bus, reporter Reporter) *Recorder {
	return &Recorder{kubernetes: r.kubernetes, bus: bus, reporter: reporter}
}

// Record sends the event. It never blocks.
func (r *Recorder) Record(about runtime.Object, e Event) {
	metadata := userMetadataOf(about)
	maps.Copy(metadata, e.Metadata)
	message := cut(e.Message, maxEventMessage)
	r.kubernetes.AnnotatedEventf(about, metadata, e.Type, e.Reason, "%s", message)
	r.tell(about, metadata, e, message)
}

// userMetadataOf returns the annotations that users want to find in the events of an object.
func userMetadataOf(about runtime.Object) map[string]string {
	metadata := map[string]string{}
	if object, err := apimeta.Accessor(about); err == nil {
		for key, value := range object.GetAnnotations() {
			if strings.HasPrefix(key, userMetadata) {
				metadata[key] = value
			}
		}
	}
	return metadata
}

// tell tells the event on the bus.
func (r *Recorder) tell(about runtime.Object, metadata map[string]string, e Event, message string) {
	if r.bus == nil {
		return
	}
	involved, err := reference.GetReference(r.reporter.Scheme, about)
	if err != nil {
		return // of a kind that is not ours, or without a name: client-go's recorder has logged so
	}
	r.bus.tell(News{
		InvolvedObject: *involved, Severity: severityOf(e.Type), Message: message, Reason: e.Reason, Metadata: metadata,
		ReportingController: r.reporter.Controller, ReportingInstance: r.reporter.Instance, Turn: e.turn,
	})
}

// turn tells inside the process that an object has begun to fail or does so no more. Kubernetes has the condition itself.
func (r *Recorder) turn(about Object, to Turn, metadata map[string]string) {
	ready := Condition(about, meta.ReadyCondition)
	if r.bus == nil || ready == nil {
		return
	}
	kind := corev1.EventTypeNormal
	if to == TurnedBad {
		kind = corev1.EventTypeWarning
	}
	with := userMetadataOf(about)
	maps.Copy(with, metadata)
	r.tell(about, with, Event{Type: kind, Reason: ready.Reason, turn: to}, ready.Message)
}

// cut shortens a message to at most limit bytes and an ellipsis, between two characters.
func cut(message string, limit int) string {
	if len(message) <= limit {
		return message
	}
	return strings.ToValidUTF8(message[:limit], "") + "…"
}

// faultEvent tells of an attempt that ended in a fault. Waiting for a dependency is no reason to wake anybody.
func faultEvent(end Outcome, metadata map[string]string) Event {
	kind := corev1.EventTypeWarning
	if end.waitsForOthers() {
		kind = corev1.EventTypeNormal
	}
	return Event{Type: kind, Reason: end.Fault.Reason, Message: end.Fault.Error(), Metadata: metadata}
}
