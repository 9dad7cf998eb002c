// Package leak is for tests of packages that start goroutines.
package leak

import (
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines that are about to end may take for it: on a busy machine one may stand still for seconds.
const patience = time.Minute

// VerifyTestMain is goleak.VerifyTestMain, which waits less than half a second, for machines that are busy.
func VerifyTestMain(m goleak.TestingM) { goleak.VerifyTestMain(patient{m}) }

type patient struct{ goleak.TestingM }

func (p patient) Run() int {
	code := p.TestingM.Run()
	for end := time.Now().Add(patience); code == 0 && goleak.Find() != nil && time.Now().Before(end); {
		// Find has waited
	}
	return code
}
