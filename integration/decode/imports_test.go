package decode

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestIndependent holds the decoder to what its package comment says. Running tshark is no share in the protocol's code, as long
// as what runs it imports none of it either.
func TestIndependent(t *testing.T) {
	const runner = "innertun/integration/tshark"
	files, err := filepath.Glob("*.go")
	others, otherErr := filepath.Glob("../tshark/*.go")
	if err != nil || otherErr != nil || len(files) == 0 || len(others) == 0 {
		t.Fatal(files, err, others, otherErr)
	}
	files = append(files, others...)
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if path := strings.Trim(i.Path.Value, `"`); strings.HasPrefix(path, "innertun/") && path != runner {
				t.Errorf("%s imports %s: the decoder must share no code with what it judges", name, path)
			}
		}
	}
}
