package drift

import "time"

const (
	// A correction that was undone is done again after firstPause, then after three times as long each time, up to longestPause.
	firstPause   = 2 * time.Second
	pauseFactor  = 3
	longestPause = 5 * time.Minute
	// contestedAfter is how many corrections in a row have to be undone before it counts as a fight. From then on there is one
	// correction every longestPause.
	contestedAfter = 4
	// leastQuiet is how long an object has to stay as it was left, at least, for what was before to be over.
	leastQuiet = 30 * time.Second
)

// fight is how often in a row somebody was at an object: to put it right, or in vain.
type fight struct {
	rounds      int
	corrections int       // of the rounds
	last        time.Time // of the last round
}

// pause is how long after the last round the next may be.
func (f fight) pause() time.Duration {
	switch {
	case f.rounds == 0:
		return 0
	case f.contested():
		return longestPause
	}
	pause := firstPause
	for range f.rounds - 1 {
		pause = min(pause*pauseFactor, longestPause)
	}
	return pause
}

// due is when the next round may be.
func (f fight) due() time.Time { return f.last.Add(f.pause()) }

// contested says whether somebody undoes each correction.
func (f fight) contested() bool { return f.corrections >= contestedAfter }

// over says whether the object has stayed as it was left for long enough.
func (f fight) over(now time.Time) bool { return f.rounds > 0 && now.After(f.ends()) }

// ends is when it is over if nothing happens until then.
func (f fight) ends() time.Time { return f.last.Add(max(leastQuiet, 2*f.pause())) }

// again is the fight when something is seen to differ: from the beginning, unless the last round was only just.
func (f fight) again(now time.Time) fight {
	if f.over(now) {
		return fight{}
	}
	return f
}

// corrected is the fight after a round that has put the object right.
func (f fight) corrected(now time.Time) fight {
	f = f.again(now)
	return fight{rounds: f.rounds + 1, corrections: f.corrections + 1, last: now}
}

// tried is the fight after a round that has not.
func (f fight) tried(now time.Time) fight {
	f = f.again(now)
	return fight{rounds: f.rounds + 1, corrections: f.corrections, last: now}
}
