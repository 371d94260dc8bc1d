"""Pictures of what an encoder sees: feature maps, attention, reconstructions, propagated masks; and one page of them."""
