package helm

import "time"

// ActionKind is what can be done with a release. Each has a file of its name.
type ActionKind string

// The actions.
const (
	// None: nothing is done, for the reason that the Action gives.
	None ActionKind = "none"
	// Install makes the first release, or a new one in the place of one that was removed.
	Install ActionKind = "install"
	// Upgrade makes the next one.
	Upgrade ActionKind = "upgrade"
	// Test runs its test hooks.
	Test ActionKind = "test"
	// Rollback makes the next one of what the last good one was.
	Rollback ActionKind = "rollback"
	// Uninstall removes it.
	Uninstall ActionKind = "uninstall"
	// Unlock marks a pending release as failed whose maker is dead.
	Unlock ActionKind = "unlock"
	// Correct puts right what has drifted in the cluster.
	Correct ActionKind = "correct"
	// Reset forgets the history and the failures in the status.
	Reset ActionKind = "reset"
)

// Action is what is to be done next, with why.
type Action struct {
	Kind ActionKind
	// Why is for logs and for people: a whole clause, without times.
	Why string
	// Version is the one to go back to, of a Rollback.
	Version int
	// Of None alone: what keeps it from being done, if anything does.
	Fault *Refusal
}

// Refusal says why nothing is done although not all is well.
type Refusal struct {
	Reason, Message string
	// Final: until the spec, the chart or the values change, or somebody asks for it.
	Final bool
	// RetryAt is when it is tried again unasked; zero if it is not.
	RetryAt time.Time
}
