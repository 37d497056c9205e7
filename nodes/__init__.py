"""The nodes that come with facegraph, one file each; configs name them as nodes.smooth:Smooth."""
