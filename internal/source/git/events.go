package git

import "fmt"

// maxSubject is how many characters of a commit's subject an event repeats.
const maxSubject = 50

// stored is the message of the event that tells of new content, in Flux's words.
func stored(c Commit) string {
	subject := c.Subject
	if runes := []rune(subject); len(runes) > maxSubject {
		subject = string(runes[:maxSubject]) + "..."
	}
	return fmt.Sprintf("stored artifact for commit '%s'", subject)
}
