"""The linear layer that adapters can steer cell by cell.

Letters: B batch, S tokens, D width, K cells, A adapters.
"""

from torch import Tensor, nn
from torch.nn import functional


class CellLinear(nn.Linear):
    """A linear layer whose caller also passes a route; alone it does not need it.

    Models use it for the projections that an adapter may route, so that the route travels as an
    argument: `adapters.routed.RoutedLinear` takes the layer's place and reads it.
    """

    def forward(self, tokens_BSD: Tensor, route: Tensor | None = None) -> Tensor:
        """Project tokens; shape BSD, float.

        Args:
            tokens_BSD: Tokens, cell-major along S.
            route: route_KA or route_BSA, ignored here.
        """
        del route
        return functional.linear(tokens_BSD, self.weight, self.bias)
