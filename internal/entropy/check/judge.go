package check

import (
	"time"

	"concord/internal/entropy/copies"
)

// judge checks one shard: it decides what the states of the copies mean, compares them, keeps the result, and queues
// the repair.
type judge struct {
	Deps
	*memory
	wake signal // a shard is to be looked at again
}

func (j *judge) settle() time.Duration { return time.Duration(j.Config().Settle) }

// secondLook is when to look at a mismatch again that is found now.
func (j *judge) secondLook() time.Time { return j.Cluster.Now().Add(max(j.settle(), time.Second)) }

// lookPause is the time after which a shard is checked again whose repair waits for hinted handoff. The owner of the
// copy that lacks something says so earlier, when all that waited has arrived.
const lookPause = 30 * time.Second

// lookLater has a shard checked again in a while.
func (j *judge) lookLater(set copies.Set) {
	j.lookAgain(set.Shard.ID, &lastCheck{owners: set.Owners(), lookAgain: j.Cluster.Now().Add(lookPause)})
	j.wake.up()
}
