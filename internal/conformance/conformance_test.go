package conformance

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

var (
	row  = regexp.MustCompile(`^\| ([\d., ]+) \| (.+) \| (.+) \| (.+) \|$`)
	file = regexp.MustCompile("`([\\w/.]+)`")
	test = regexp.MustCompile("`([\\w/]+_test\\.go)` ((?:Test|Fuzz)\\w+)")
	link = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
)

// TestConformance looks for every file and every test that docs/conformance.md names. A row without a test says why.
func TestConformance(t *testing.T) {
	rows := 0
	for line := range strings.Lines(read(t, "docs/conformance.md")) {
		m := row.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		rows++
		for _, f := range file.FindAllStringSubmatch(m[3]+m[4], -1) {
			if _, err := os.Stat(filepath.Join(root, f[1])); err != nil {
				t.Errorf("%s: %v", m[2], err)
			}
		}
		tests := test.FindAllStringSubmatch(m[4], -1)
		for _, x := range tests {
			if !strings.Contains(read(t, x[1]), "\nfunc "+x[2]+"(") {
				t.Errorf("%s: no %s in %s", m[2], x[2], x[1])
			}
		}
		if len(tests) == 0 && !strings.HasPrefix(m[4], "*by construction*: ") && !strings.HasPrefix(m[4], "**not yet**: ") {
			t.Errorf("%s: neither a test nor a reason: %s", m[2], m[4])
		}
	}
	if rows < 50 {
		t.Errorf("%d rows found", rows)
	}
}

// TestLinks follows the links between the pages of the documentation.
func TestLinks(t *testing.T) {
	pages := []string{"README.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			rel, _ := filepath.Rel(root, path)
			pages = append(pages, rel)
		}
		return err
	})
	if err != nil || len(pages) < 5 {
		t.Fatalf("%v, %d pages", err, len(pages))
	}
	for _, page := range pages {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
