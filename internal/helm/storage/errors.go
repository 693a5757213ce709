package storage

import "fmt"

// CorruptError says that a Secret is labelled as a revision of a release and holds none, be it that somebody has edited it. The
// other revisions are not affected.
type CorruptError struct {
	// Secret is its name.
	Secret string
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("Secret '%s' holds no release that can be read: %v", e.Secret, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// TooLargeError says that a release does not fit into a Secret, even without the chart's files that templates do not use.
type TooLargeError struct {
	// Size and Limit are in bytes, as encoded.
	Size, Limit int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the release would take %d KiB in its storage Secret, which may have %d: "+
		"the chart's templates, its default values and what is rendered of them must become less", kibibytes(e.Size), kibibytes(e.Limit))
}

// kibibytes rounds up. Two attempts at the same release differ by a few bytes, and their messages must not.
func kibibytes(bytes int) int { return (bytes + 1023) / 1024 }

// ConflictError says that a storage Secret is not as this process has read or written it: somebody else works on the same release.
type ConflictError struct {
	// Secret is its name.
	Secret string
	Err    error
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("Secret '%s' has been changed by somebody else while the release was worked on", e.Secret)
}

func (e *ConflictError) Unwrap() error { return e.Err }
