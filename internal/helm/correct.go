package helm

import "strings"

// correct puts right the objects that have drifted, and no others (faults.md F19).
func (j *job) correct() error {
	access, err := j.client(j.newest.Method)
	if err != nil {
		return err
	}
	done, err := access.Correct(j.drifted)
	lines := make([]string, 0, len(done))
	for _, c := range done {
		lines = append(lines, c.String())
		j.objects = append(j.objects, c.Ref.String())
	}
	j.more = strings.Join(lines, "\n")
	return access.note(err)
}
