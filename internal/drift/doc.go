// Package drift says what became of objects between two runs of who applied them, and has it put right: live against
// declared, who did it, how often, and whether it is worth another try.
//
// Judge, Differences and the back-off are pure. The Engine is told which objects are not observed as they were left, looks at
// each by itself, keeps the record and, where that is wanted, has that one object applied again.
package drift
