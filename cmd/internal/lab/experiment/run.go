package experiment

import (
	"context"
	"errors"
	"fmt"

	"innertun/cmd/internal/lab/cell"
)

// Run runs the cells one after the other and hands over what came of each, in their order, once its twins are there to be
// compared with. progress, which may be nil, hears of each cell at once. It ends early, without an error and without the cell at hand, when ctx does.
// Errors: a cell that cannot be run, or those of record.
func (e Experiment) Run(ctx context.Context, progress func(done int, r Record), record func(Record) error) error {
	var twins []Record
	flush := func() error {
		e.judge(twins)
		for _, r := range twins {
			if err := record(r); err != nil {
				return err
			}
		}
		twins = twins[:0]
		return nil
	}
	for i, j := range e.Jobs() {
		if ctx.Err() != nil {
			break
		}
		result, err := cell.Run(ctx, e.Cell(j))
		if ctx.Err() != nil {
			break // the cell is not over
		}
		if errors.Is(err, cell.ErrSlow) { // as good as hung, and no reason to leave out the others
			result.Outcome, result.Error, result.Class, err = cell.Hung, err.Error(), "slow", nil
		}
		if err != nil {
			return fmt.Errorf("%s over %q: %w", j.Variant.Name, j.Path.Name, err)
		}
		r := j.record(result)
		if progress != nil {
			progress(i+1, r)
		}
		if len(twins) > 0 && twins[0].twin() != r.twin() {
			if err := flush(); err != nil {
				return err
			}
		}
		twins = append(twins, r)
	}
	return flush()
}
