package experiment

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed library/*.toml
var library embed.FS

// Names returns the names of the ready experiments.
func Names() (names []string) {
	files, err := fs.Glob(library, "library/*.toml")
	if err != nil {
		panic(err) // a bad pattern
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(path.Base(f), ".toml"))
	}
	return names
}

// Text returns a ready experiment as its file has it.
func Text(name string) (string, error) {
	b, err := library.ReadFile("library/" + name + ".toml")
	if err != nil {
		return "", fmt.Errorf("there is no experiment %q (ready ones: %s)", name, strings.Join(Names(), ", "))
	}
	return string(b), nil
}

// Load returns a ready experiment.
func Load(name string) (Experiment, error) {
	text, err := Text(name)
	if err != nil {
		return Experiment{}, err
	}
	return Parse(name+".toml", text)
}
