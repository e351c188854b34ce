package cluster

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// ContinuousQuery names a continuous query.
type ContinuousQuery inDatabase

// ContinuousRun is until when a continuous query has run.
type ContinuousRun struct {
	ContinuousQuery
	Until time.Time `json:"until"`
}

// NoteContinuousQueries records until when continuous queries have run, so that another node that runs them goes on
// from there.
type NoteContinuousQueries struct {
	Runs []ContinuousRun `json:"runs"`
}

func (o NoteContinuousQueries) apply(s *State) (any, error) {
	until := s.continuousRuns()
	for _, r := range o.Runs {
		until[r.ContinuousQuery] = r.Until
	}
	live := make(map[ContinuousQuery]bool)
	for _, db := range s.Data.Databases {
		for _, cq := range db.ContinuousQueries {
			live[ContinuousQuery{db.Name, cq.Name}] = true
		}
	}
	maps.DeleteFunc(until, func(cq ContinuousQuery, _ time.Time) bool { return !live[cq] })
	s.setContinuousRuns(until)
	return nil, nil
}

func (s *State) continuousRuns() map[ContinuousQuery]time.Time {
	until := make(map[ContinuousQuery]time.Time, len(s.ContinuousRuns))
	for _, r := range s.ContinuousRuns {
		until[r.ContinuousQuery] = r.Until
	}
	return until
}

func (s *State) setContinuousRuns(until map[ContinuousQuery]time.Time) {
	s.ContinuousRuns = make([]ContinuousRun, 0, len(until))
	for cq, at := range until {
		s.ContinuousRuns = append(s.ContinuousRuns, ContinuousRun{cq, at})
	}
	slices.SortFunc(s.ContinuousRuns, func(a, b ContinuousRun) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Name, b.Name))
	})
}

// beginsAnew forgets when a continuous query ran that is about to be made: it was another one of its name.
func (s *State) beginsAnew(cq ContinuousQuery) {
	if db := s.Data.Database(cq.Database); db != nil {
		for _, old := range db.ContinuousQueries {
			if old.Name == cq.Name {
				return
			}
		}
	}
	until := s.continuousRuns()
	if _, ran := until[cq]; ran {
		delete(until, cq)
		s.setContinuousRuns(until)
	}
}
